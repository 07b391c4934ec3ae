"""What is in a benchmark's data: `python -m trace_cl.data`.

Faults are refused; repeats and leaks, which TRACE's own files have, are reported and left alone, or published numbers
would no longer compare.
"""

from collections.abc import Callable, Sequence
from statistics import median

import pandas as pd

from trace_cl.data.files import FEATURES, TaskData


def findings(task: TaskData) -> list[str]:
    """What is peculiar about a task's files, a phrase each. None of it is a fault."""
    found = []
    if len(task.splits) > 1:
        for split in ("eval", "test"):
            if leaked := task.leaked(split):
                found.append(f"{len(leaked)} of {len(task.splits[split])} {split} prompts stand in train")
        if task.sha256("eval") == task.sha256("test"):
            found.append("the eval split is the test split")
        elif shared := len(set(task.splits["eval"]["prompt"]) & set(task.splits["test"]["prompt"])):
            found.append(f"eval and test share {shared} prompts")
    for split, rows in task.splits.items():
        if (different := len(set(rows["prompt"]))) < len(rows):
            found.append(f"{len(rows)} {split} rows are {different} different prompts")
    if blanks := sum(answer != answer.strip() for rows in task.splits.values() for answer in rows["answer"]):
        found.append(f"{blanks} answers begin or end with blanks")
    return found


def summarize(tasks: Sequence[TaskData], count_tokens: Callable[[str], int]) -> pd.DataFrame:
    """A row a split: rows, different prompts, leaks, token lengths (median / longest), checksum."""
    table = []
    for task in tasks:
        for split, rows in task.splits.items():
            prompts, answers = ([count_tokens(text) for text in rows[field]] for field in FEATURES)
            table.append(
                {
                    "task": task.name,
                    "split": split,
                    "rows": len(rows),
                    "different": len(set(rows["prompt"])),
                    "in train": "" if split == "train" else str(len(task.leaked(split))),
                    "prompt tokens": f"{median(prompts):.0f} / {max(prompts)}",
                    "answer tokens": f"{median(answers):.0f} / {max(answers)}",
                    "sha256": task.sha256(split)[:16],
                }
            )
    return pd.DataFrame(table)
