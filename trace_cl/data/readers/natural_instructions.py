"""Natural Instructions' layout, cut as SAPT did: `ROOT/<task>/{train,dev,test}.json`, each a task with its `Definition`
and `Instances`, whose `output` is a text or several, each of them right.

The first output is what is learned, and what is scored against: a metric has one reference. (SAPT draws one of them
at random whenever it loads the data; Natural Instructions itself scores against the best of all.) A row whose output is
blank, as one of the published ones is, is left out. The reader notes how many rows either concerns.
"""

from collections.abc import Mapping, Sequence
from glob import escape
from pathlib import Path

from trace_cl.data.files import TaskData, check_text, checked_rows, kind, read_json, task_folder
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
    several: dict[str, int] = {}
    blank: dict[str, int] = {}
    for split in splits:
        path = folder / FILES[split]
        content = read_json(path, f"{name} needs {', '.join(FILES.values())}; or leave it out of benchmark.order")
        if not isinstance(content, dict):
            raise UserError(f'{path}: must be an object with "Definition" and "Instances", not {kind(content)}')
        definition = _definition(content.get("Definition"), path)
        source = f"{path}, Instances"
        inputs = [row["input"] for row in checked_rows(content.get("Instances"), source, ("input",))]
        outputs = [_outputs(row, f"{source}, row {n}") for n, row in enumerate(content["Instances"])]
        rows[split] = [
            {"prompt": template.fill({"definition": definition, "input": text}), "answer": right[0]}
            for text, right in zip(inputs, outputs, strict=True)
            if right
        ]
        if not rows[split]:
            raise UserError(f"{source}: no row has an output; mend the file")
        several[split] = sum(len(set(right)) > 1 for right in outputs)
        blank[split] = outputs.count([])
    notes = [
        f"{_counts(several)} rows have several outputs, of which the first counts",
        f"{_counts(blank)} rows have no output and are left out",
    ]
    return TaskData.of(name, rows, [note for note, of in zip(notes, (several, blank), strict=True) if any(of.values())])


def _counts(rows: Mapping[str, int]) -> str:
    """So many rows of each split that has any: 3 train, 1 test."""
    return ", ".join(f"{count} {split}" for split, count in rows.items() if count)


def _folder(root: Path, name: str) -> Path:
    """The folder of this name, or the only one whose name goes on after it."""
    try:
        return task_folder(root, name, ", ".join(FILES.values()))
    except UserError:
        longer = sorted(root.glob(f"{escape(name)}_*"))
        if not longer:
            raise
    if len(longer) > 1:
        raise UserError(f"{longer[0]} and {longer[1]} are both {name}: write the whole name in benchmark.order")
    return longer[0]


def _definition(value: object, path: Path) -> str:
    """The first of them, without the blanks round it, as SAPT has it."""
    first = value[0] if isinstance(value, list) and value else value
    if not isinstance(first, str) or not first.strip():
        raise UserError(f'{path}: "Definition" must be a text, or an array of texts, not {kind(first)}')
    return first.strip()


def _outputs(row: Mapping[str, object], where: str) -> list[str]:
    """The outputs that say something."""
    if "output" not in row:
        raise UserError(f'{where}: "output" is missing; every row needs "input" and "output"')
    given = row["output"] if isinstance(row["output"], list) else [row["output"]]
    if not given:
        raise UserError(f'{where}: "output" is an empty array; give it a text')
    said = [text for text in given if not isinstance(text, str) or text.strip()]
    return [check_text(text, f'{where}: "output"') for text in said]
