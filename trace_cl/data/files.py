"""A benchmark's examples: read from files or generated, and checked row by row before anything is trained."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, Features, Value

from trace_cl.errors import UserError
from trace_cl.names import look_up

SPLITS = ("train", "eval", "test")
LONGEST = 1_000_000
"""Characters of a text at most: it would be cut to some thousands, after minutes of encoding."""
_NO_CHARACTER = re.compile("[\0\ud800-\udfff]")
"""A null, or one half of a pair that stands for a character: JSON can write it, and a text cannot hold it."""
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
    generated = _called("benchmark.generator", generator)
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


def generate_rows(key: str, function: str) -> list[dict[str, str]]:
    """The rows that the function with this dotted name gives; it takes no argument, and `key` is where it was named.
    Raises UserError naming the row at the first fault."""
    return checked_rows(_called(key, function), function)


def generate_abilities(key: str, function: str) -> dict[str, list[dict[str, str]]]:
    """By ability the rows that the function with this dotted name gives, as `generate_rows`."""
    given = _called(key, function)
    if not isinstance(given, Mapping) or not given:
        raise UserError(f'{function}: must give rows by ability, as in {{"facts": [{{…}}, …]}}, not {_kind(given)}')
    return {str(ability): checked_rows(rows, f"{function}, {ability}") for ability, rows in given.items()}


def _called(key: str, name: str) -> object:
    function = look_up(key, name)
    if not callable(function):
        raise UserError(f"{key}={name} is no function")
    return function()


def read_task(root: Path, name: str, splits: Sequence[str] = SPLITS) -> TaskData:
    """One task, `root/<name>/<split>.json`. Raises UserError naming the file, and the row, at the first fault."""
    try:
        if not root.is_dir():
            raise UserError(f"{root} is no folder: set benchmark.root to the folder that holds a folder a task")
        if not (root / name).is_dir():
            raise UserError(
                f"{root / name} is missing: put {name}'s {', '.join(f'{split}.json' for split in splits)} there"
            )
    except OSError as error:
        raise UserError(f"{root / name} cannot be read ({error.strerror}): set benchmark.root to a folder") from error
    return TaskData(
        name, {split: Dataset.from_list(read_split(root / name / f"{split}.json"), FEATURES) for split in splits}
    )


def read_split(path: Path) -> list[dict[str, str]]:
    """The rows of one JSON file, checked."""
    try:
        # Some editors begin a file with a mark. Numbers are none of ours, and a whole one may be too long to read.
        rows = json.loads(path.read_text(encoding="utf-8-sig"), parse_int=float, object_pairs_hook=_Row)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: every task needs train.json, eval.json and test.json") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): it must be a file that you may read") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); mend the file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, byte {error.start}: not valid UTF-8; save the file as UTF-8") from error
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply; it must be an array of objects with two texts") from error
    return checked_rows(rows, str(path))


class _Row(dict[str, object]):
    """An object of the file; `twice` are the keys it has more than once, of which a dictionary keeps the last."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.twice = {key for key, count in Counter(key for key, _ in pairs).items() if count > 1}


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
            if field in getattr(row, "twice", ()):
                raise UserError(f'{where}: "{field}" is there twice; leave one of the two')
            if len(row[field]) > LONGEST:
                raise UserError(
                    f'{where}: "{field}" has {len(row[field]):,} characters, and {LONGEST:,} are the most; shorten it'
                )
            if (character := _NO_CHARACTER.search(row[field])) is not None:
                raise UserError(
                    f'{where}: "{field}" holds U+{ord(character[0]):04X}, which is no character of a text; remove it'
                )
    return [{field: row[field] for field in FEATURES} for row in rows]


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "an array", dict: "an object"}
    kind = dict if isinstance(value, dict) else type(value)
    name = names.get(kind, f"a {kind.__name__}")
    return name if value or isinstance(value, bool | int | float) else f"empty {name}"
