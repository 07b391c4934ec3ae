"""A benchmark's examples: read from files or generated, and checked row by row before anything is trained."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, Features, Value

from trace_cl.data import embedded
from trace_cl.errors import UserError

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
