"""What is in a benchmark's files: `python -m trace_cl.data ROOT`.

It checks a folder in TRACE's layout, `ROOT/<task>/{train,eval,test}.json`, each an array of `{"prompt", "answer"}`, and
prints what is in it. Faults are refused; repeats and leaks, which TRACE's own files have, are reported and left alone,
or published numbers would no longer compare.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from statistics import median

import pandas as pd
from omegaconf import OmegaConf

from trace_cl.config import CONF_DIR
from trace_cl.data.files import FEATURES, TaskData, load
from trace_cl.errors import UserError
from trace_cl.tiny import CHECKPOINT
from trace_cl.training.model import load_tokenizer


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


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m trace_cl.data ROOT`."""
    parser = argparse.ArgumentParser(prog="python -m trace_cl.data", description="Check a folder in TRACE's layout.")
    parser.add_argument("root", help="the folder that holds one folder a task")
    trace = OmegaConf.load(CONF_DIR / "benchmark" / "trace.yaml").benchmark
    tokenizer = load_tokenizer(str(CHECKPOINT))
    try:
        tasks = list(load("trace", parser.parse_args(arguments).root, trace.order, trace.instructions).values())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        summarize(tasks, lambda text: len(tokenizer(text, add_special_tokens=False).input_ids)).to_string(index=False)
    )
    print("\n(token lengths: median / longest, with the tiny model's tokenizer)")
    for task in tasks:
        for finding in findings(task):
            print(f"{task.name}: {finding}")
    return 0
