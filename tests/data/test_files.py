"""Bad files are refused with file and row; peculiar ones are reported."""

import errno
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support import compose, find_trace_root

from trace_cl.data import checks, files
from trace_cl.data.__main__ import main
from trace_cl.data.batches import Encoder
from trace_cl.data.benchmark import load_data, prepare
from trace_cl.data.readers import trace
from trace_cl.data.readers.template import Reading
from trace_cl.errors import UserError
from trace_cl.tiny import CHECKPOINT
from trace_cl.training.model import load_tokenizer

GOOD = {"prompt": "p", "answer": "a"}


@pytest.fixture
def root(small_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_root, tmp_path / "root"))


def read(root: Path, *arguments: str, instructions: bool = True) -> dict[str, files.TaskData]:
    """These tasks, and with `key=value` among the arguments under these settings."""
    tasks = [argument for argument in arguments if "=" not in argument]
    settings = [argument for argument in arguments if "=" in argument]
    order = f"benchmark.order=[{','.join(tasks)}]"
    return load_data(compose("benchmark=trace", f"benchmark.root={root}", order, *settings).benchmark, instructions)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"prompt": "p", "answer": "a"},\n {"prompt": "p" "answer"}]', "test.json, line 2: not valid JSON"),
        (json.dumps(GOOD), "test.json: must be a non-empty array"),
        ("[]", "test.json: must be a non-empty array"),
        (json.dumps([GOOD, ["p", "a"]]), "test.json, row 1: must be an object"),
        (json.dumps([GOOD, GOOD, {"prompt": "p"}]), 'test.json, row 2: "answer" is missing'),
        (json.dumps([{**GOOD, "prompt": " \n"}]), 'test.json, row 0: "prompt" is empty'),
        (json.dumps([{**GOOD, "answer": 3}]), 'test.json, row 0: "answer" must be a text, not a number'),
        (json.dumps([{**GOOD, "answer": None}]), 'test.json, row 0: "answer" must be a text, not null'),
        (json.dumps([{**GOOD, "answer": []}]), 'test.json, row 0: "answer" must be a text, not empty an array'),
        (
            json.dumps([GOOD, {**GOOD, "prompt": "a\ud800"}]),
            'test.json, row 1: "prompt" holds U+D800, which is no char',
        ),
        (json.dumps([{**GOOD, "answer": "a\0b"}]), 'test.json, row 0: "answer" holds U+0000, which is no character'),
        ('[{"prompt": "p", "answer": "a", "answer": "b"}]', 'test.json, row 0: "answer" is there twice'),
        ('[{"prompt": "p", "answer": ' + "9" * 5000 + "}]", 'test.json, row 0: "answer" must be a text, not a number'),
        ('[{"prompt": "p", "answer": NaN}]', 'test.json, row 0: "answer" must be a text, not a number'),
        ("[" * 100_000, "test.json: nested too deeply"),
        (f'[{{"prompt": "p", "answer": "a", "more": {"[" * 10_000}{"]" * 10_000}}}]', "test.json: nested too deeply"),
        (
            json.dumps([GOOD, {**GOOD, "answer": "a" * 1_000_001}]),
            'test.json, row 1: "answer" has 1,000,001 characters, and 1,000,000 are the most',
        ),
        ('[{"prompt": "p\0", "answer": "a"}]', "test.json, line 1: not valid JSON"),
    ],
    ids=range(18),
)
def test_a_bad_file_is_named_with_its_row(root: Path, content: str, message: str) -> None:
    (root / "FOMC" / "test.json").write_text(content)
    with pytest.raises(UserError, match="FOMC") as refused:
        read(root, "C-STANCE", "FOMC")
    assert message in str(refused.value)


def folder_in_its_place(root: Path) -> None:
    (root / "FOMC" / "eval.json").unlink()
    (root / "FOMC" / "eval.json").mkdir()


def link_to_itself(root: Path) -> None:
    (root / "FOMC" / "eval.json").unlink()
    (root / "FOMC" / "eval.json").symlink_to("eval.json")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "FOMC" / "eval.json").unlink(), "eval.json is missing"),
        (lambda root: shutil.rmtree(root / "FOMC"), "FOMC is missing"),
        (lambda root: shutil.rmtree(root), "is no folder: set benchmark.root"),
        (lambda root: (root / "FOMC" / "eval.json").write_bytes(b"[\xff]"), "byte 1: not valid UTF-8"),
        (lambda root: (root / "FOMC" / "eval.json").write_text("[]", "utf-16"), "byte 0: not valid UTF-8"),
        (folder_in_its_place, "eval.json cannot be read (Is a directory): it must be a file that you may read"),
        (link_to_itself, "eval.json cannot be read (Too many levels of symbolic links)"),
    ],
)
def test_a_missing_or_unreadable_file_is_named(root: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(root)
    with pytest.raises(UserError, match=r"FOMC|root") as refused:
        read(root, "FOMC")
    assert message in str(refused.value)


def test_what_nobody_reads_may_be_anything(root: Path) -> None:
    row = '{"prompt": "p", "answer": "a", "score": NaN, "id": %s, "tags": [1, -Infinity], "id": "\\ud800"}' % (
        "9" * 5000
    )
    (root / "FOMC" / "test.json").write_text(f"[{row}]", "utf-8-sig")
    assert read(root, "FOMC")["FOMC"].splits["test"].to_list() == [GOOD]


def test_a_file_that_one_may_not_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, who may read everything."""

    def refuse(path: Path, *_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(UserError, match=r"train\.json cannot be read \(Permission denied\)"):
        trace.read_task(root, "FOMC", Reading(), files.SPLITS)
    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(UserError, match=r"FOMC cannot be read \(Permission denied\)"):
        trace.read_task(root, "FOMC", Reading(), files.SPLITS)


def test_a_folder_whose_name_is_too_long_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read \(File name too long\)"):
        trace.read_task(root / ("x" * 300), "FOMC", Reading(), files.SPLITS)


def test_leaks_and_repeats_are_found_and_can_be_left_out(root: Path) -> None:
    train = json.loads((root / "FOMC" / "train.json").read_text())
    test = [train[3], {"prompt": "new", "answer": "B "}, train[7], {"prompt": "new", "answer": "C"}]
    for split in ("eval", "test"):
        (root / "FOMC" / f"{split}.json").write_text(json.dumps(test))
    task = trace.read_task(root, "FOMC", Reading(), files.SPLITS)
    assert task.leaked("test") == {0, 2}
    assert checks.findings(task, {}) == [
        "2 of 4 eval prompts stand in train",
        "2 of 4 test prompts stand in train",
        "the eval split is the test split",
        "4 eval rows are 3 different prompts",
        "4 test rows are 3 different prompts",
        "2 answers begin or end with blanks",
    ]
    encoder = Encoder(load_tokenizer(str(CHECKPOINT)), 64, 8)
    for drop, indices in (("false", [0, 1, 2]), ("true", [1])):
        config = compose(
            "benchmark=trace",
            f"benchmark.root={root}",
            "benchmark.order=[FOMC]",
            "benchmark.max_train=5",
            "benchmark.max_test=3",
            f"benchmark.drop_leaked={drop}",
        ).benchmark
        benchmark = prepare(config, load_data(config, instructions=True), "test", encoder)
        assert benchmark.tasks[0].indices == indices
        assert len(benchmark.tasks[0].train) == 5
    config.max_test = 1
    with pytest.raises(UserError, match=r"FOMC: benchmark.drop_leaked=true leaves no test example"):
        prepare(config, load_data(config, instructions=True), "test", encoder)


GENERATOR = """
def rows(count, answer="a"):
    return [{"prompt": f"p{number}", "answer": answer} for number in range(count)]

def good():
    return {"Y": {"train": rows(3), "eval": rows(1), "test": rows(2)}, "X": {"train": rows(4)}}

def no_eval():
    return {"Y": {"train": rows(3), "test": rows(2)}}

def blank():
    return {"Y": {"train": rows(3), "eval": rows(1, " "), "test": rows(2)}}

def a_tuple():
    return {"Y": {"train": tuple(rows(3)), "eval": rows(1), "test": rows(2)}}

def nothing():
    pass

def surrogate():
    return {"Y": {"train": rows(3, "\\ud800"), "eval": rows(1), "test": rows(2)}}

def fails():
    raise KeyError("its own")

number = 3
"""


def test_a_benchmark_of_ones_own_is_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_generator.py").write_text(GENERATOR)
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(function: str, instructions: bool = False) -> dict[str, files.TaskData]:
        tasks = "benchmark.tasks={Y:{epochs:1,metric:accuracy,answer_tokens:4}}"
        config = compose(f"benchmark.generator=own_generator.{function}", f"+{tasks}", "benchmark.order=[Y]")
        config.benchmark.instructions = "X"
        return load_data(config.benchmark, instructions)

    assert {split: len(rows) for split, rows in load("good")["Y"].splits.items()} == {"train": 3, "eval": 1, "test": 2}
    assert list(load("good", instructions=True)["X"].splits) == ["train"]
    for function, sentence in (
        ("no_eval", "own_generator.no_eval gives no eval split of Y"),
        ("blank", 'own_generator.blank, Y, eval, row 0: "answer" is empty'),
        ("a_tuple", "own_generator.a_tuple, Y, train: must be a non-empty array .* not a tuple"),
        ("nothing", "own_generator.nothing must give a dictionary of tasks"),
        ("surrogate", r'own_generator.surrogate, Y, train, row 0: "answer" holds U\+D800'),
        ("number", "benchmark.generator=own_generator.number is no function"),
    ):
        with pytest.raises(UserError, match=sentence):
            load(function)
    with pytest.raises(KeyError, match="its own"):
        load("fails")


def test_the_data_command_checks_any_benchmark(root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    conf = tmp_path / "conf" / "benchmark"
    conf.mkdir(parents=True)
    (conf / "mine.yaml").write_text(
        f"name: mine\nroot: {root}\norder: [FOMC]\ntasks:\n  FOMC: {{epochs: 1, metric: sari, answer_tokens: 4}}\n"
    )
    for arguments, tasks in (
        ([str(root), "benchmark.order=[FOMC,Py150]"], {"FOMC": 3, "Py150": 3, "Lima": 1}),
        (["--config-dir", str(conf.parent), "benchmark=mine"], {"FOMC": 3}),
    ):
        assert main(arguments) == 0
        table = capsys.readouterr().out.partition("\n\n")[0].splitlines()[1:]
        assert dict(Counter(line.split()[0] for line in table)) == tasks
    assert main(["benchmark=mne", "--config-dir", str(conf.parent)]) == 2
    assert capsys.readouterr().err == "error: benchmark=mne: no such choice; nearest: mine\n"


def test_instructions_need_a_training_split_alone(root: Path) -> None:
    """LIMA's own test split has no answers."""
    (root / "Lima" / "test.json").write_text(json.dumps([{"prompt": "p", "answer": ""}]))
    assert list(read(root, "FOMC")["Lima"].splits) == ["train"]


def test_instructions_are_read_only_where_they_are_learned_from(root: Path) -> None:
    shutil.rmtree(root / "Lima")
    assert list(read(root, "FOMC", instructions=False)) == ["FOMC"]
    assert list(read(root, "FOMC", "benchmark.instructions=null")) == ["FOMC"]
    with pytest.raises(UserError, match="Lima is missing"):
        read(root, "FOMC")


def test_the_embedded_benchmark_has_no_leaks() -> None:
    loaded = load_data(compose().benchmark, instructions=True)
    assert len(loaded) == 9
    assert {name: checks.findings(task, {}) for name, task in loaded.items()} == {name: [] for name in loaded}


def test_real_data_shows_what_was_measured_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    """A leak is a leak whichever part of TRACE's files lies here; the counts are those of the part that does."""
    assert main([str(find_trace_root())]) == 0
    table, _, findings = capsys.readouterr().out.partition("(token lengths")
    assert len(table.splitlines()) >= 1 + 8 * 3 + 1
    assert "FOMC: the eval split is the test split" in findings or "FOMC: eval and test share" in findings
    assert "test prompts stand in train" in findings
    assert "NumGLUE-cm: 500 train rows are" in findings or "NumGLUE-cm: 5000 train rows are 282" in findings
    assert "20Minuten: " in findings


def test_a_faulty_folder_ends_the_command_with_a_sentence(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(root / "Py150")
    assert main([str(root)]) == 2
    assert (
        capsys.readouterr().err
        == f"error: {root / 'Py150'} is missing: put Py150's train.json, eval.json, test.json there\n"
    )
