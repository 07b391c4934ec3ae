"""Any dataset by its columns: from the Hugging Face hub, saved to disk by the `datasets` library, or files of rows.

With `benchmark.root` a task lies in `ROOT/<dataset>`: a folder of `save_to_disk`, or one of files, a file a split
(`.json`, `.jsonl`, `.csv`, `.parquet`). Without it `dataset` is a name on the hub. No code of a dataset's own is run.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet  # type: ignore[import-untyped]

from trace_cl.data.files import TaskData, checked_rows, kind, read_json, read_text, task_folder
from trace_cl.data.readers.template import Reading, Template
from trace_cl.errors import UserError

ENDINGS = (".json", ".jsonl", ".csv", ".parquet")


def read_task(root: Path | None, name: str, reading: Reading, splits: Sequence[str]) -> TaskData:
    """One task: a row's prompt and answer are the two templates, filled with its columns; `{options}` are the label
    options, in one line. Raises UserError naming the file or dataset, and the row, at the first fault."""
    rows = {}
    for split in splits:
        source, found = _rows(root, name, reading, reading.splits.get(split, split))
        rows[split] = checked_rows(_filled(found, source, reading), source)
    return TaskData.of(name, rows)


def _rows(root: Path | None, name: str, reading: Reading, split: str) -> tuple[str, datasets.Dataset | list[Any]]:
    """The rows of a split, and what to call where they come from."""
    if root is None:
        return _from_hub(name, reading, split)
    folder = task_folder(root, reading.dataset or name, f"splits, as save_to_disk leaves them or as {split}.json,")
    if any((folder / file).exists() for file in ("dataset_dict.json", "state.json")):
        return f"{folder}, {split}", _saved(folder, split)
    files = [folder / f"{split}{ending}" for ending in ENDINGS if (folder / f"{split}{ending}").exists()]
    if len(files) != 1:
        found = f"{files[0].name} and {files[1].name} are both there" if files else f"there is no {split}.json"
        raise UserError(
            f"{folder}: {found}; a split is one file ({', '.join(ENDINGS)}), and benchmark.splits maps train, eval and "
            "test to the names that they have there"
        )
    return str(files[0]), _file(files[0])


def _from_hub(name: str, reading: Reading, split: str) -> tuple[str, datasets.Dataset]:
    if reading.dataset is None:
        raise UserError(
            f"benchmark.tasks.{name}.dataset is not set: give it a dataset's name on the Hugging Face hub, or set "
            "benchmark.root to the folder that holds it"
        )
    called = ", ".join(filter(None, (reading.dataset, reading.subset, split)))
    try:
        return called, datasets.load_dataset(reading.dataset, reading.subset, split=split, revision=reading.revision)
    except Exception as error:
        # The hub's client, fsspec and datasets each raise their own, down to a bare Exception of the network's.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"benchmark.tasks.{name}.dataset: {called} could not be loaded from the Hugging Face hub ({reason}): mend "
            "name, subset, revision or split, or put it by with save_to_disk and set benchmark.root"
        ) from error


def _saved(folder: Path, split: str) -> datasets.Dataset:
    """A split of what `save_to_disk` left; a dataset without splits is none of them."""
    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # of files that are torn: Arrow's, JSON's, the library's own
        raise UserError(f"{folder} cannot be read ({' '.join(str(error).split())}): save it to disk anew") from error
    if not isinstance(saved, datasets.DatasetDict):
        raise UserError(f"{folder} is one dataset without splits: save a DatasetDict of train, eval and test there")
    if split not in saved:
        raise UserError(
            f"{folder} has no split {split}, but {', '.join(map(str, saved))}: benchmark.splits says which is which"
        )
    return saved[split]


def _file(path: Path) -> datasets.Dataset | list[Any]:
    """The rows of a file of texts are taken as they are written: what looks like a number or a date stays a text."""
    if path.suffix == ".parquet":
        try:
            return datasets.Dataset(pyarrow.parquet.read_table(path))
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}): write it anew") from error
    if path.suffix == ".json":
        content = read_json(path, "")
        if not isinstance(content, list):
            raise UserError(f"{path}: must be an array of rows, not {kind(content)}")
        return content
    if path.suffix == ".csv":
        return _comma_separated(path)
    return [_line(path, number, line) for number, line in enumerate(read_text(path, "").split("\n")) if line.strip()]


def _comma_separated(path: Path) -> list[Any]:
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path, ""), newline=""), strict=True))
    except csv.Error as error:
        raise UserError(f"{path}: not valid CSV ({error}); mend the file") from error
    for number, row in enumerate(rows):
        if None in row:
            raise UserError(f"{path}, row {number}: has more values than the file has columns; mend the row")
    return rows


def _line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(f"{path}, row {number}: not valid JSON ({error}); mend the file") from error


def _filled(rows: datasets.Dataset | list[Any], source: str, reading: Reading) -> list[dict[str, str]]:
    """Each row's prompt and answer."""
    columns = _columns(rows, source)
    answer = reading.answer
    if answer is None:
        raise UserError("benchmark.answer is not set: benchmark.reader=datasets needs a text with a column, as {label}")
    answer.check(columns)
    renamed = answer.places if reading.options else set()
    classes = {
        name: f.names for name, f in columns.items() if isinstance(f, datasets.ClassLabel) and name not in renamed
    }
    options = reading.options or next((classes[place] for place in sorted(answer.places & set(classes))), ())
    listed = {"options": ", ".join(options)} if options else {}
    template = reading.needed_template("datasets", [*columns, *listed])
    used = sorted((template.places | answer.places) - set(listed))
    filled = []
    for number, row in enumerate(rows.select_columns(used) if isinstance(rows, datasets.Dataset) else rows):
        where = f"{source}, row {number}"
        if not isinstance(row, dict):
            raise UserError(f"{where}: must be an object with a value a column, not {kind(row)}")
        values = {
            column: _text(row.get(column), classes.get(column), f'{where}: "{column}"') for column in used
        } | listed
        filled.append({"prompt": template.fill(values), "answer": _answer(answer, values, options, where)})
    return filled


def _columns(rows: datasets.Dataset | list[Any], source: str) -> dict[str, Any]:
    """The names of the columns, in a file those of its first row, each with its type where that is known."""
    if isinstance(rows, datasets.Dataset):
        return dict(rows.features)
    if not rows:
        raise UserError(f"{source} holds no row: fill it in")
    if not isinstance(rows[0], dict):
        raise UserError(f"{source}, row 0: must be an object with a value a column, not {kind(rows[0])}")
    return dict.fromkeys(rows[0])


def _text(value: object, classes: Sequence[str] | None, where: str) -> str:
    """A column's value as a text: a class by its name."""
    if classes is not None and isinstance(value, int) and value in range(len(classes)):
        return classes[value]
    if classes is not None:
        raise UserError(f"{where} must be the number of one of its {len(classes)} classes, not {value}; mend the row")
    if not isinstance(value, str | int | float):
        raise UserError(f"{where} must be a text or a number, not {kind(value)}; mend the row")
    return str(value)


def _answer(template: Template, values: Mapping[str, str], options: Sequence[str], where: str) -> str:
    """The answer, one of the options where there are any; a number counts them from 0."""
    answer = template.fill(values)
    if not options or answer in options:
        return answer
    if answer.isdecimal() and int(answer) < len(options):
        return options[int(answer)]
    raise UserError(
        f"{where}: its answer {answer!r} is not one of the options ({', '.join(options)}); mend one of the two"
    )
