"""A benchmark's examples: generated, or as its files hold them, and checked row by row before anything is trained.

How the files of each kind of benchmark lie and read is in `readers/`.
"""

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
    """One task's splits, each a `Dataset` with the columns `prompt` and `answer`; `notes` are what its reader has to
    say of it, a phrase each."""

    name: str
    splits: dict[str, Dataset]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, rows: Mapping[str, list[dict[str, str]]], notes: Sequence[str] = ()) -> "TaskData":
        """Of checked rows by split."""
        return cls(name, {split: Dataset.from_list(rows[split], FEATURES) for split in rows}, tuple(notes))

    def texts(self, split: str, field: str) -> list[str]:
        """A split's prompts or answers, as a list at once: row by row a `Dataset` is slow."""
        found: list[str] = self.splits[split][:][field]
        return found

    def leaked(self, split: str) -> set[int]:
        """Rows of `split` whose prompt stands in the training split too."""
        train = set(self.texts("train", "prompt"))
        return {row for row, prompt in enumerate(self.texts(split, "prompt")) if prompt in train}

    def sha256(self, split: str) -> str:
        """Checksum of a split's prompts and answers."""
        rows = [*map(list, zip(self.texts(split, "prompt"), self.texts(split, "answer"), strict=True))]
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
        tasks[name] = TaskData.of(name, rows)
    return tasks


def generate_rows(key: str, function: str) -> list[dict[str, str]]:
    """The rows that the function with this dotted name gives; it takes no argument, and `key` is where it was named.
    Raises UserError naming the row at the first fault."""
    return checked_rows(_called(key, function), function)


def generate_abilities(key: str, function: str) -> dict[str, list[dict[str, str]]]:
    """By ability the rows that the function with this dotted name gives, as `generate_rows`."""
    given = _called(key, function)
    if not isinstance(given, Mapping) or not given:
        raise UserError(f'{function}: must give rows by ability, as in {{"facts": [{{…}}, …]}}, not {kind(given)}')
    return {str(ability): checked_rows(rows, f"{function}, {ability}") for ability, rows in given.items()}


def _called(key: str, name: str) -> object:
    function = look_up(key, name)
    if not callable(function):
        raise UserError(f"{key}={name} is no function")
    return function()


def task_folder(root: Path, name: str, needs: str) -> Path:
    """`root/name`. Raises UserError where that is no folder; `needs` are the files that were to lie there."""
    try:
        if not root.is_dir():
            raise UserError(f"{root} is no folder: set benchmark.root to the folder that holds a folder a task")
        if not (root / name).is_dir():
            raise UserError(f"{root / name} is missing: put {name}'s {needs} there")
    except OSError as error:
        raise UserError(f"{root / name} cannot be read ({error.strerror}): set benchmark.root to a folder") from error
    return root / name


def read_json(path: Path, needs: str) -> object:
    """What a JSON file holds. Raises UserError naming the file and the place where it is none; `needs` says of a file
    that is missing why it was to be there."""
    try:
        return json.loads(read_text(path, needs), parse_int=_whole_number, object_pairs_hook=_Row)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); mend the file") from error
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply; its rows must be objects of texts") from error


def read_text(path: Path, needs: str) -> str:
    """A text file in UTF-8, without the mark that some editors begin it with. Raises as `read_json`."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: {needs}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): it must be a file that you may read") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, byte {error.start}: not valid UTF-8; save the file as UTF-8") from error


def _whole_number(digits: str) -> float:
    """Python refuses to read one of thousands of digits."""
    return int(digits) if len(digits) < 20 else float(digits)


class _Row(dict[str, object]):
    """An object of the file; `twice` are the keys it has more than once, of which a dictionary keeps the last."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.twice = {key for key, count in Counter(key for key, _ in pairs).items() if count > 1}


def checked_rows(rows: object, source: str, fields: Sequence[str] = tuple(FEATURES)) -> list[dict[str, str]]:
    """These fields of the rows, each a text, checked one by one: a row's number is what lets a user mend it."""
    shape = ", ".join(f'"{field}": …' for field in fields)
    named = " and ".join(f'"{field}"' for field in fields)
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{source}: must be a non-empty array of {{{shape}}}, not {kind(rows)}")
    for number, row in enumerate(rows):
        where = f"{source}, row {number}"
        if not isinstance(row, dict):
            raise UserError(f"{where}: must be an object with {named}, not {kind(row)}")
        for field in fields:
            if field not in row:
                raise UserError(f'{where}: "{field}" is missing; every row needs {named}')
            check_text(row[field], f'{where}: "{field}"')
            if field in getattr(row, "twice", ()):
                raise UserError(f'{where}: "{field}" is there twice; leave one of the two')
    return [{field: row[field] for field in fields} for row in rows]


def check_text(value: object, where: str) -> str:
    """The value. Raises UserError for what is no text that a model can be asked or taught; `where` are file, row and
    field."""
    if not isinstance(value, str):
        raise UserError(f"{where} must be a text, not {kind(value)}")
    if not value.strip():
        raise UserError(f"{where} is empty; fill it in or remove the row")
    if len(value) > LONGEST:
        raise UserError(f"{where} has {len(value):,} characters, and {LONGEST:,} are the most; shorten it")
    if (character := _NO_CHARACTER.search(value)) is not None:
        raise UserError(f"{where} holds U+{ord(character[0]):04X}, which is no character of a text; remove it")
    return value


def kind(value: object) -> str:
    """What a value is in JSON's words, for a message."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "an array", dict: "an object"}
    type_ = dict if isinstance(value, dict) else type(value)
    name = names.get(type_, f"a {type_.__name__}")
    return name if value or isinstance(value, bool | int | float) else f"empty {name}"
