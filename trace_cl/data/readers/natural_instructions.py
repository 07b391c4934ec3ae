"""Natural Instructions' layout, cut as SAPT did: `ROOT/<task>/{train,dev,test}.json`, each a task with its `Definition`
and `Instances`, whose `output` is a text or several, each of them right.

The first output is what is learned, and what is scored against: a metric has one reference. (SAPT draws one of them
at random whenever it loads the data; Natural Instructions itself scores against the best of all.)
"""

from collections.abc import Sequence
from pathlib import Path

from trace_cl.data.files import TaskData, checked_rows, kind, read_json, task_folder
from trace_cl.data.readers.template import Reading
from trace_cl.errors import UserError

FILES = {"train": "train.json", "eval": "dev.json", "test": "test.json"}
PLACES = ("definition", "input")


def read_task(root: Path, name: str, reading: Reading, splits: Sequence[str]) -> TaskData:
    """One task, by its folder's name or by its number alone (`task002`). Raises UserError naming the file, and the row
    of its instances, at the first fault."""
    template = reading.needed_template("natural_instructions", PLACES)
    folder = _folder(root, name)
    rows: dict[str, list[dict[str, str]]] = {}
    notes = []
    for split in splits:
        path = folder / FILES[split]
        content = read_json(path, f"{name} needs {', '.join(FILES.values())}")
        if not isinstance(content, dict):
            raise UserError(f'{path}: must be an object with "Definition" and "Instances", not {kind(content)}')
        definition = _definition(content.get("Definition"), path)
        instances = content.get("Instances")
        several = _take_first_output(instances, path)
        rows[split] = [
            {"prompt": template.fill({"definition": definition, "input": row["input"]}), "answer": row["output"]}
            for row in checked_rows(instances, f"{path}, Instances", ("input", "output"))
        ]
        if several:
            notes.append(f"{several} of {len(rows[split])} {split} rows have several outputs, of which the first counts")
    return TaskData.of(name, rows, notes)


def _folder(root: Path, name: str) -> Path:
    """The folder of this name, or the only one whose name goes on after it."""
    if root.is_dir() and not (root / name).is_dir():
        longer = sorted(root.glob(f"{name}_*"))
        if len(longer) > 1:
            raise UserError(f"{longer[0]} and {longer[1]} are both {name}: write the whole name in benchmark.order")
        if longer:
            return longer[0]
    return task_folder(root, name, ", ".join(FILES.values()))


def _definition(value: object, path: Path) -> str:
    """The first of them, without the blanks round it, as SAPT has it."""
    first = value[0] if isinstance(value, list) and value else value
    if not isinstance(first, str) or not first.strip():
        raise UserError(f'{path}: "Definition" must be a text, or an array of texts, not {kind(first)}')
    return first.strip()


def _take_first_output(instances: object, path: Path) -> int:
    """Let each instance have its first output alone; gives how many had several."""
    several = 0
    for number, row in enumerate(instances if isinstance(instances, list) else []):
        outputs = row.get("output") if isinstance(row, dict) else None
        if isinstance(outputs, list):
            if not outputs:
                raise UserError(f'{path}, Instances, row {number}: "output" is an empty array; give it a text')
            row["output"] = outputs[0]
            several += len(set(map(str, outputs))) > 1
    return several
