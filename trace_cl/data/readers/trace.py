"""TRACE's layout: `ROOT/<task>/{train,eval,test}.json`, each an array of rows with a prompt and an answer."""

from collections.abc import Sequence
from pathlib import Path

from trace_cl.data.files import TaskData, checked_rows, read_json, task_folder
from trace_cl.data.readers.template import Reading

NEEDS = "every task needs train.json, eval.json and test.json"


def read_task(root: Path, name: str, reading: Reading, splits: Sequence[str]) -> TaskData:
    """One task; a template may put its `{prompt}` into other words. Raises UserError naming the file, and the row, at
    the first fault."""
    folder = task_folder(root, name, ", ".join(f"{split}.json" for split in splits))
    rows = {split: read_split(folder / f"{split}.json") for split in splits}
    if reading.template is not None:
        template = reading.needed_template("trace", ["prompt"])
        rows = {
            split: [{"prompt": template.fill(row), "answer": row["answer"]} for row in rows[split]] for split in splits
        }
    return TaskData.of(name, rows)


def read_split(path: Path) -> list[dict[str, str]]:
    """The rows of one file, checked."""
    return checked_rows(read_json(path, NEEDS), str(path))
