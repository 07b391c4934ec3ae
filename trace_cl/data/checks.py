"""What is in a benchmark's data: `python -m trace_cl.data`.

Faults are refused; repeats and leaks, which TRACE's own files have, are reported and left alone, or published numbers
would no longer compare.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import median

import pandas as pd

from trace_cl.data.files import FEATURES, TaskData
from trace_cl.metrics import SMALL, wilson


def findings(task: TaskData, published: Mapping[str, int], scored: str = "test") -> list[str]:
    """What is peculiar about a task's files, a phrase each. None of it is a fault.

    `published` are the rows that its splits are known to have elsewhere, `scored` is the split that is.
    """
    found = []
    counts = {split: len(rows) for split, rows in task.splits.items()}
    if others := [split for split in counts if published.get(split, counts[split]) != counts[split]]:
        found.append(", ".join(f"{counts[split]} {split} rows, published {published[split]}" for split in others))
    if len(task.splits) > 1:
        for split in ("eval", "test"):
            if leaked := task.leaked(split):
                found.append(f"{len(leaked)} of {len(task.splits[split])} {split} prompts stand in train")
        chosen = ": what is chosen by its scores is chosen on the test" if scored == "eval" else ""
        if task.sha256("eval") == task.sha256("test"):
            found.append(f"the eval split is the test split{chosen}")
        elif shared := len(set(task.texts("eval", "prompt")) & set(task.texts("test", "prompt"))):
            found.append(f"eval and test share {shared} prompts{chosen}")
    for split, rows in task.splits.items():
        if (different := len(set(task.texts(split, "prompt")))) < len(rows):
            found.append(f"{len(rows)} {split} rows are {different} different prompts")
    if blanks := sum(answer != answer.strip() for split in task.splits for answer in task.texts(split, "answer")):
        found.append(f"{blanks} answers begin or end with blanks")
    return [*found, *task.notes]


def coarseness(task: TaskData, scored: str = "test") -> str:
    """How little the score of a small split says; empty where it has enough rows."""
    if scored not in task.splits or (rows := len(task.splits[scored])) >= SMALL:
        return ""
    low, high = wilson(50, rows)
    return (
        f"{rows} {scored} rows: one is {100 / rows:.1f} points, and a score of 50 has the 95% interval {low:.1f} to "
        f"{high:.1f} (Wilson)"
    )


def summarize(tasks: Sequence[TaskData], count_tokens: Callable[[str], int]) -> pd.DataFrame:
    """A row a split: rows, different prompts, leaks, token lengths (median / longest), checksum."""
    table = []
    for task in tasks:
        for split, rows in task.splits.items():
            prompts, answers = ([count_tokens(text) for text in task.texts(split, field)] for field in FEATURES)
            table.append(
                {
                    "task": task.name,
                    "split": split,
                    "rows": len(rows),
                    "different": len(set(task.texts(split, "prompt"))),
                    "in train": "" if split == "train" else str(len(task.leaked(split))),
                    "prompt tokens": f"{median(prompts):.0f} / {max(prompts)}",
                    "answer tokens": f"{median(answers):.0f} / {max(answers)}",
                    "sha256": task.sha256(split)[:16],
                }
            )
    return pd.DataFrame(table)
