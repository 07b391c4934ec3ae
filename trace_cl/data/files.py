"""A benchmark's examples: read from files or generated, and checked row by row before anything is trained."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, Features, Value

from trace_cl.errors import UserError
from trace_cl.names import look_up

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


def generate_tasks(generator: str, wanted: Mapping[str, Sequence[str]]) -> dict[str, TaskData]:
    """The wanted splits of each wanted task, from the function with this dotted name. It takes no argument and gives
    task -> split -> rows. Raises UserError naming task, split and row at the first fault."""
    generated = look_up("benchmark.generator", generator)()
    if not isinstance(generated, Mapping) or not all(isinstance(splits, Mapping) for splits in generated.values()):
        raise UserError(f"benchmark.generator={generator} must give a dictionary of tasks, each a dictionary of splits")
    tasks = {}
    for name, splits in wanted.items():
        for split in splits:
            if split not in generated.get(name, {}):
                raise UserError(f"{generator} gives no {split} split of {name}: every task needs {', '.join(splits)}")
        rows = {split: checked_rows(generated[name][split], f"{generator}, {name}, {split}") for split in splits}
        tasks[name] = TaskData(name, {split: Dataset.from_list(rows[split], FEATURES) for split in splits})
    return tasks


def read_task(root: Path, name: str, splits: Sequence[str] = SPLITS) -> TaskData:
    """One task, `root/<name>/<split>.json`. Raises UserError naming the file, and the row, at the first fault."""
    if not root.is_dir():
        raise UserError(f"{root} is no folder: set benchmark.root to the folder that holds a folder a task")
    if not (root / name).is_dir():
        raise UserError(
            f"{root / name} is missing: put {name}'s {', '.join(f'{split}.json' for split in splits)} there"
        )
    return TaskData(
        name, {split: Dataset.from_list(read_split(root / name / f"{split}.json"), FEATURES) for split in splits}
    )


def read_split(path: Path) -> list[dict[str, str]]:
    """The rows of one JSON file, checked."""
    if not path.is_file():
        raise UserError(f"{path} is missing: every task needs train.json, eval.json and test.json")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); mend the file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, byte {error.start}: not valid UTF-8; save the file as UTF-8") from error
    return checked_rows(rows, str(path))


def checked_rows(rows: object, source: str) -> list[dict[str, str]]:
    """The rows, checked one by one, because a row's number is what lets a user mend it."""
    if not isinstance(rows, list) or not rows:
        raise UserError(f'{source}: must be a non-empty array of {{"prompt": …, "answer": …}}, not {_kind(rows)}')
    for number, row in enumerate(rows):
        where = f"{source}, row {number}"
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
    name = names.get(type(value), f"a {type(value).__name__}")
    return name if value or isinstance(value, bool | int | float) else f"empty {name}"
