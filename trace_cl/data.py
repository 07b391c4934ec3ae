"""The benchmarks' examples: read, checked before anything is trained, and reported on.

`python -m trace_cl.data ROOT` checks a folder in TRACE's layout, `ROOT/<task>/{train,eval,test}.json`, each an array
of `{"prompt", "answer"}`, and prints what is in it. Faults are refused; repeats and leaks, which TRACE's own files
have, are reported and left alone, or published numbers would no longer compare.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pandas as pd
from datasets import Dataset, Features, Value
from omegaconf import OmegaConf

from trace_cl import embedded
from trace_cl.config import CONF_DIR
from trace_cl.errors import UserError
from trace_cl.model import load_tokenizer
from trace_cl.tiny import CHECKPOINT

SPLITS = ("train", "eval", "test")
FEATURES = Features({"prompt": Value("string"), "answer": Value("string")})


@dataclass(frozen=True)
class TaskData:
    """One task's splits, each a `Dataset` with the columns `prompt` and `answer`."""

    name: str
    splits: dict[str, Dataset]

    def leaked(self, split: str) -> set[int]:
        """Rows of `split` whose prompt stands in the training split too."""
        train = set(self.splits["train"]["prompt"])
        return {row for row, prompt in enumerate(self.splits[split]["prompt"]) if prompt in train}

    def sha256(self, split: str) -> str:
        """Checksum of a split's prompts and answers."""
        rows = [[row["prompt"], row["answer"]] for row in self.splits[split]]
        return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def load(benchmark: str, root: str | None, names: Sequence[str], instructions: str) -> dict[str, TaskData]:
    """The named tasks of `trace` (files under `root`) or `embedded`, and of the instruction set what is learned from.

    Raises UserError at the first fault.
    """
    splits = {**dict.fromkeys(names, SPLITS), instructions: ("train",)}
    if benchmark == "embedded":
        generated = embedded.generate()
        return {
            name: TaskData(name, {split: Dataset.from_list(generated[name][split], FEATURES) for split in wanted})
            for name, wanted in splits.items()
        }
    if root is None:
        raise UserError("benchmark=trace needs its data: set benchmark.root=DIR or $TRACE_ROOT to the unpacked archive")
    return {name: read_task(Path(root), name, wanted) for name, wanted in splits.items()}


def read_task(root: Path, name: str, splits: Sequence[str] = SPLITS) -> TaskData:
    """One task of a folder in TRACE's layout. Raises UserError naming the file, and the row, at the first fault."""
    if not root.is_dir():
        raise UserError(f"{root} is no folder: set benchmark.root or $TRACE_ROOT to where TRACE's archive is unpacked")
    if not (root / name).is_dir():
        raise UserError(
            f"{root / name} is missing: put {name}'s {', '.join(f'{split}.json' for split in splits)} there"
        )
    return TaskData(
        name, {split: Dataset.from_list(read_split(root / name / f"{split}.json"), FEATURES) for split in splits}
    )


def read_split(path: Path) -> list[dict[str, str]]:
    """The rows of one JSON file, checked one by one, because a row number is what lets a user mend the file."""
    if not path.is_file():
        raise UserError(f"{path} is missing: every task needs train.json, eval.json and test.json")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); mend the file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, byte {error.start}: not valid UTF-8; save the file as UTF-8") from error
    if not isinstance(rows, list) or not rows:
        raise UserError(f'{path}: must be a non-empty array of {{"prompt": …, "answer": …}}, not {_kind(rows)}')
    for number, row in enumerate(rows):
        where = f"{path}, row {number}"
        if not isinstance(row, dict):
            raise UserError(f'{where}: must be an object with "prompt" and "answer", not {_kind(row)}')
        for field in FEATURES:
            if field not in row:
                raise UserError(f'{where}: "{field}" is missing; every row needs "prompt" and "answer"')
            if not isinstance(row[field], str):
                raise UserError(f'{where}: "{field}" must be a text, not {_kind(row[field])}')
            if not row[field].strip():
                raise UserError(f'{where}: "{field}" is empty; fill it in or remove the row')
    return [{field: row[field] for field in FEATURES} for row in rows]


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "an array", dict: "an object"}
    return names[type(value)] if value or isinstance(value, bool | int | float) else f"empty {names[type(value)]}"


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


if __name__ == "__main__":
    sys.exit(main())
