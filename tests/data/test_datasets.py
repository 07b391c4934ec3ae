"""Any dataset by its columns: saved to disk, as files of rows, or from the hub."""

import json
import re
from pathlib import Path

import datasets
import pytest
from support import compose

from trace_cl import choices
from trace_cl.config import check
from trace_cl.data.benchmark import load_data
from trace_cl.data.files import TaskData
from trace_cl.errors import UserError

ROWS = [
    {"text": "a {text} of blanks ", "label": 1, "year": 1999, "when": "2020-01-01"},
    {"text": "b", "label": 0, "year": 7, "when": "007"},
]
SETTINGS = (
    "benchmark=embedded",
    "benchmark.source=files",
    "benchmark.reader=datasets",
    "benchmark.instructions=null",
    "benchmark.template='{when}/{year}: {text}? {options}\n'",
    "benchmark.answer='{label}'",
    "benchmark.order=[mine]",
)
TASK = "epochs:1,metric:accuracy,answer_tokens:4"


def load(*overrides: str, task: str = "dataset:rows") -> TaskData:
    config = compose(*SETTINGS, f"+benchmark.tasks={{mine:{{{TASK},{task}}}}}", *overrides)
    check(config)
    return load_data(config.benchmark, instructions=False)["mine"]


def saved(folder: Path, **splits: list[dict[str, object]]) -> None:
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "year": datasets.Value("int64"),
            "when": datasets.Value("string"),
        }
    )
    datasets.DatasetDict(
        {name: datasets.Dataset.from_list(rows, features) for name, rows in splits.items()}
    ).save_to_disk(str(folder))


EXPECTED = [
    {"prompt": "2020-01-01/1999: a {text} of blanks ? no, yes\n", "answer": "yes"},
    {"prompt": "007/7: b? no, yes\n", "answer": "no"},
]
"""Written out by hand."""


def test_a_dataset_saved_to_disk(tmp_path: Path) -> None:
    saved(tmp_path / "rows", train=ROWS, validation=ROWS[1:], test=ROWS[:1])
    task = load(f"benchmark.root={tmp_path}", "+benchmark.splits={eval:validation}")
    assert {split: rows.to_list() for split, rows in task.splits.items()} == {
        "train": EXPECTED,
        "eval": EXPECTED[1:],
        "test": EXPECTED[:1],
    }


def test_options_take_the_place_of_class_names(tmp_path: Path) -> None:
    saved(tmp_path / "rows", train=ROWS, eval=ROWS, test=ROWS)
    task = load(f"benchmark.root={tmp_path}", task="options:[nein,ja],dataset:rows")
    assert task.splits["test"]["answer"] == ["ja", "nein"]
    assert task.splits["test"]["prompt"][1] == "007/7: b? nein, ja\n"


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "parquet"])
def test_files_of_rows_are_taken_as_they_are_written(tmp_path: Path, ending: str) -> None:
    """A date stays as it is, and a number that begins with a nought."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for split in ("train", "dev", "test"):
        file = folder / f"{split}.{ending}"
        if ending == "json":
            file.write_text(json.dumps(ROWS))
        elif ending == "jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        elif ending == "csv":
            lines = [",".join(f'"{value}"' for value in row.values()) for row in ROWS]
            file.write_text("\n".join(["text,label,year,when", *lines]))
        else:
            datasets.Dataset.from_list(ROWS).to_parquet(str(file))
    task = load(f"benchmark.root={tmp_path}", "+benchmark.splits={eval:dev}", task="options:['no','yes'],dataset:rows")
    assert [rows.to_list() for rows in task.splits.values()] == [EXPECTED] * 3


def test_classes_of_parquet_files_have_their_names(tmp_path: Path) -> None:
    saved(tmp_path / "saved", train=ROWS)
    (tmp_path / "rows").mkdir()
    table = datasets.load_from_disk(str(tmp_path / "saved"))["train"]
    for split in ("train", "eval", "test"):
        table.to_parquet(str(tmp_path / "rows" / f"{split}.parquet"))
    assert load(f"benchmark.root={tmp_path}").splits["test"].to_list() == EXPECTED


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"text": "a", "label": "x", "year": 1, "when": "w"}\n{"text": "a", "la',
            r"test\.jsonl, row 1: not valid JSON",
        ),
        (
            '{"text": "a", "label": "x", "year": 1}',
            r"there is no \{when\} here, but \{text\}, \{label\}, \{year\}, \{op",
        ),
        (
            '{"text": "a", "label": "x", "year": 1, "when": "w"}',
            r"row 0: its answer 'x' is not one of the options \(no, ",
        ),
        ('{"text": "a", "label": 2, "year": 1, "when": "w"}', r"row 0: its answer '2' is not one of the options"),
        ('{"text": null, "label": 1, "year": 1, "when": "w"}', r'row 0: "text" must be a text or a number, not null'),
        (
            '{"text": "a", "label": 1, "year": 1, "when": "w"}\n{"text": "a", "label": 1, "year": 1}',
            r'test\.jsonl, row 1: "when" must be a text or a number, not null',
        ),
        ('{"text": ["a"], "label": 1, "year": 1, "when": "w"}', r'"text" must be a text or a number, not an array'),
        ("3", r"test\.jsonl, row 0: must be an object with a value a column, not a number"),
        ("", r"test\.jsonl holds no row: fill it in"),
    ],
    ids=range(9),
)
def test_a_bad_row_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "rows").mkdir()
    for split in ("train", "eval", "test"):
        (tmp_path / "rows" / f"{split}.json").write_text(json.dumps(ROWS))
    (tmp_path / "rows" / "test.json").unlink()
    (tmp_path / "rows" / "test.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        load(f"benchmark.root={tmp_path}", task="options:['no','yes'],dataset:rows")


def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path) -> None:
    root = f"benchmark.root={tmp_path}"
    with pytest.raises(
        UserError, match=r"rows is missing: put rows's splits, as save_to_disk leaves them or as train\.json"
    ):
        load(root)
    saved(tmp_path / "rows", train=ROWS, validation=ROWS)
    with pytest.raises(UserError, match=r"rows has no split eval, but train, validation: benchmark.splits says which"):
        load(root)
    with pytest.raises(UserError, match=r"benchmark.splits.dev: it is train, eval or test that has another name there"):
        load(root, "+benchmark.splits={dev:validation}")
    (tmp_path / "rows" / "train" / "data-00000-of-00001.arrow").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"rows cannot be read .*: save it to disk anew"):
        load(root)
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "one"))
    with pytest.raises(UserError, match="one is one dataset without splits"):
        load(root, task="dataset:one")
    (tmp_path / "files").mkdir()
    with pytest.raises(UserError, match=r"files: there is no train\.json; a split is one file"):
        load(root, task="dataset:files")
    (tmp_path / "files" / "train.csv").write_text('text,label\n"a",b,c\n')
    with pytest.raises(UserError, match=r"train\.csv, row 0: has more values than the file has columns"):
        load(root, "benchmark.template='{text}'", task="dataset:files")
    (tmp_path / "files" / "train.csv").write_text('text,label\n"a"x,b\n')
    with pytest.raises(UserError, match=r"train\.csv: not valid CSV"):
        load(root, "benchmark.template='{text}'", task="dataset:files")
    (tmp_path / "files" / "train.parquet").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"train\.csv and train\.parquet are both there"):
        load(root, task="dataset:files")
    (tmp_path / "files" / "train.csv").unlink()
    with pytest.raises(UserError, match=r"train\.parquet cannot be read"):
        load(root, task="dataset:files")
    saved(tmp_path / "whole", train=ROWS)
    with pytest.raises(UserError, match=r"benchmark\.answer is not set"):
        load(root, "benchmark.answer=null", task="dataset:whole")


def test_the_hub_is_asked_by_name_subset_split_and_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def load_dataset(name: str, subset: str | None, *, split: str, revision: str | None) -> datasets.Dataset:
        asked.append((name, subset, split, revision))
        saved(tmp_path / "rows", train=ROWS)
        return datasets.load_from_disk(str(tmp_path / "rows"))["train"]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = "dataset:'owner/rows',subset:part,revision:abc"
    assert load("+benchmark.splits={eval:validation}", task=task).splits["eval"].to_list() == EXPECTED
    assert asked == [("owner/rows", "part", split, "abc") for split in ("train", "validation", "test")]
    with pytest.raises(UserError, match=r"benchmark\.tasks\.mine\.dataset is not set: give it a dataset's name"):
        load(task="subset:part")


def test_a_hub_that_is_not_reached_is_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"mine\.dataset: owner/rows, train could not be loaded from the Hugging Face hub"
    ):
        load(task="dataset:'owner/rows'")


def test_the_example_in_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it asks the hub for, and what it makes of the rows that those two datasets are known to have."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md").read_text()
    [example] = re.findall(r"```yaml title=\"conf/benchmark/news.yaml\"\n(.*?)```", page, re.DOTALL)
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark" / "news.yaml").write_text(example)
    names = {"fancyzhx/ag_news": ["World", "Sports", "Business", "Sci/Tech"], "stanfordnlp/imdb": ["neg", "pos"]}

    def load_dataset(name: str, subset: str | None, *, split: str, revision: str | None) -> datasets.Dataset:
        assert (subset, split in ("train", "test")) == (None, True)
        columns = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names[name])})
        return datasets.Dataset.from_list([{"text": "t", "label": 1}], columns)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    config = choices.compose(["benchmark=news"], tmp_path)
    check(config)
    loaded = load_data(config.benchmark, instructions=True)
    assert {name: task.splits["eval"].to_list() for name, task in loaded.items()} == {
        "news": [{"prompt": "t\nTopic (World, Sports, Business, Sci/Tech):", "answer": "Sports"}],
        "films": [{"prompt": "t\nThis review is (negative, positive):", "answer": "positive"}],
    }
