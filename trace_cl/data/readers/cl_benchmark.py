"""O-LoRA's layout: `ROOT/<type>/<task>/{train,dev,test}.json`, rows with a sentence and a label, and `labels.json`.

The instruction of each type is a fact of the data: `instruction_config.json`, in ROOT or beside it in `configs/`, as in
the repository that the data come from.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from trace_cl.data.files import TaskData, checked_rows, read_json
from trace_cl.data.readers.template import Reading
from trace_cl.errors import UserError

FILES = {"train": "train.json", "eval": "dev.json", "test": "test.json"}
PLACES = ("instruction", "options", "sentence", "type", "task")


def read_task(root: Path, name: str, reading: Reading, splits: Sequence[str]) -> TaskData:
    """One task, whose type is the folder that it lies in. Raises UserError naming the file, and the row, at the first
    fault: a label that `labels.json` does not hold is one."""
    template = reading.needed_template("cl_benchmark", PLACES)
    folder = _folder(root, name)
    labels = _labels(folder / "labels.json")
    known = {"options": ", ".join(labels), "type": folder.parent.name, "task": name}
    if "instruction" in template.places:
        known["instruction"] = _instruction(root, folder.parent.name, name)
    rows = {}
    for split in splits:
        path = folder / FILES[split]
        needs = f"{name} needs {', '.join(FILES.values())}; or leave it out of benchmark.order"
        read = checked_rows(read_json(path, needs), str(path), ("sentence", "label"))
        for number, row in enumerate(read):
            if row["label"] not in labels:
                raise UserError(
                    f"{path}, row {number}: its label {row['label']!r} is not one of labels.json beside it "
                    f"({known['options']}); mend one of the two"
                )
        rows[split] = [
            {"prompt": template.fill({**known, "sentence": row["sentence"]}), "answer": row["label"]} for row in read
        ]
    return TaskData.of(name, rows)


def _folder(root: Path, name: str) -> Path:
    """The task's folder, whatever its type's is called."""
    try:
        if not root.is_dir():
            raise UserError(f"{root} is no folder: set benchmark.root to the folder that holds a folder a type of task")
        found = sorted(folder / name for folder in root.iterdir() if (folder / name).is_dir())
    except OSError as error:
        raise UserError(f"{root} cannot be read ({error.strerror}): set benchmark.root to a folder") from error
    if not found:
        raise UserError(f"{root / '*' / name} is missing: put {name}'s {', '.join(FILES.values())}, labels.json there")
    if len(found) > 1:
        raise UserError(f"{found[0]} and {found[1]} are both {name}: leave one of the two")
    return found[0]


def _labels(path: Path) -> list[str]:
    labels = read_json(path, "it lists the labels that a task has")
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) and label for label in labels):
        raise UserError(f'{path}: must be a non-empty array of texts, as in ["True", "False"]')
    return labels


def _instruction(root: Path, kind: str, name: str) -> str:
    """The first one of this type of task that goes without examples."""
    places = [root / "instruction_config.json", root.parent / "configs" / "instruction_config.json"]
    path = next((path for path in places if path.exists()), places[0])
    either = f"or give benchmark.tasks.{name}.template a text without {{instruction}}"
    config = read_json(path, f"it holds the instruction of each type of task; put it there, {either}")
    entries = config.get(kind) if isinstance(config, dict) else None
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("instruction_type") == "zero-shot":
            instruction = entry.get("instruction")
            if isinstance(instruction, str):
                return instruction
    example = json.dumps({kind: [{"instruction_type": "zero-shot", "instruction": "…\n"}]}, ensure_ascii=False)
    raise UserError(f"{path} has no zero-shot instruction for {kind}, as in {example}: add it, {either}")
