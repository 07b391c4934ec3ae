"""Runs of different experiments are never averaged, and never stand where another's results belong."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from support import compose

from trace_cl.analysis import compare, page, plots, summary, tables
from trace_cl.analysis.stored import StoredRun, find
from trace_cl.build import build_strategy
from trace_cl.config import as_dict
from trace_cl.identity import run_folder
from trace_cl.records.files import as_json, write

MATRIX = "round,a,b\n1,80,\n2,40,60\n"
OTHER = "round,a,b\n1,80,\n2,60,64\n"

READERS: dict[str, Callable[[Sequence[str]], int]] = {
    "results": lambda where: summary.main(where),
    "tables": lambda where: tables.main(["33", "--model", "tiny", *where]),
    "plots": lambda where: plots.main(["curves", "--out", f"{where[1]}/plots", *where]),
    "page": lambda where: page.main(where),
}


def stored(runs: Path, *overrides: str, matrix: str = MATRIX, data: str = "1", place: str = "") -> Path:
    """A finished run as the journal leaves it; with `place` where an earlier version would have put it."""
    config = compose("strategy=replay", f"runs_dir={runs}", *overrides)
    method = build_strategy(config).name
    folder = runs / "embedded" / "tiny" / place if place else run_folder(config, method)
    write(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(as_dict(config))))
    write(folder / "summary.json", as_json({"method": method}))
    write(folder / "data.sha256", f"{data * 64}  FOMC\n")
    write(folder / "matrix.csv", matrix)
    return folder


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (("strategy.ratio=1", "seed=2"), "strategy.ratio"),
        (
            ("training.learning_rate=0.1", "benchmark.max_test=1", "seed=2"),
            "benchmark.max_test, training.learning_rate",
        ),
        (("benchmark.order=[FOMC]", "benchmark.max_train=16", "seed=2"), "benchmark.order, benchmark.max_train"),
        (("seed=1",), "seed"),  # a copy, which would count as another seed
        (("strategy=gem", "seed=2"), "strategy"),
        (("model.name=other", "seed=2"), "model.name"),
    ],
)
def test_what_an_earlier_version_put_at_anothers_place_is_left_out(
    reader: str, overrides: tuple[str, ...], keys: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(tmp_path)
    wrong = stored(tmp_path, *overrides, matrix=OTHER, place="replay/seed2")
    assert READERS[reader](["--runs", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert f"not at its place ({keys}), left out: {wrong}" in printed.err
    if reader == "results":
        assert "| replay | 1 | 50.0 | -20.0 | 70.0 |" in printed.out
    if reader == "tables":
        assert "| OP | 80.0 / " in printed.out
        assert "±" not in printed.out
    if reader == "page":
        text = (tmp_path / "report.html").read_text()
        assert "embedded/tiny/replay/seed1" in text
        assert "embedded/tiny/replay/seed2" not in text


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("first", "second", "data", "key"),
    [
        ("model.path=/a", "model.path=/b", "1", "model.path"),
        ("model.path=null", "model.path=null", "2", "data.sha256"),
    ],
)
def test_seeds_that_differ_in_more_are_refused(
    reader: str, first: str, second: str, data: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = stored(tmp_path, first), stored(tmp_path, second, "seed=2", data=data)
    assert READERS[reader](["--runs", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"error: {one} and {two} differ in more than the seed ({key}): there is no average of them, so move one of the "
        "two away\n"
    )


def test_what_changes_no_result_may_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored(tmp_path)
    free = ("engine.zero_stage=3", "training.tokens_per_batch=5", "logger=tensorboard", "evaluation.zero_shot=false")
    stored(tmp_path, "seed=2", "device=cuda:1", "benchmark.root=/data", "selection=layer", *free, matrix=OTHER)
    assert summary.main(["--runs", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "| replay | 2 | 56.0 ± 8.5 | -15.0 ± 7.1 | 71.0 ± 1.4 |" in printed.out
    assert not printed.err


def test_a_key_that_an_old_run_lacks_is_its_own_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its choice's file, where that says otherwise than the schema (embedded: 8 examples a step, for 128)."""
    stored(tmp_path)
    path = stored(tmp_path, "seed=2") / "config.yaml"
    lines = path.read_text().splitlines()
    kept = [line for line in lines if line.strip().partition(":")[0] not in ("global_batch", "ratio", "drop_leaked")]
    assert len(kept) == len(lines) - 3
    path.write_text("\n".join(kept))
    assert summary.main(["--runs", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "| replay | 2 |" in printed.out
    assert not printed.err


def test_variants_stand_under_their_own_name_and_in_no_table_of_the_papers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        stored(tmp_path, "strategy.ratio=1", f"seed={seed}")
    where = ["--runs", str(tmp_path)]
    assert summary.main(where) == 0
    assert "| replay-ratio1 | 2 |" in capsys.readouterr().out
    assert page.main(where) == 0
    assert "<h4>replay-ratio1, seed 2</h4>" in (tmp_path / "report.html").read_text()
    assert [method.name for method in plots.gather(find(tmp_path))] == ["replay-ratio1"]
    capsys.readouterr()
    assert tables.main(["33", "--model", "tiny", *where]) == 0
    assert "runs are missing" in capsys.readouterr().out


def test_a_comparison_names_the_data(tmp_path: Path) -> None:
    one, two = stored(tmp_path), stored(tmp_path, "strategy.ratio=1", data="2")
    keys = compare.config_differences([StoredRun.at(folder) for folder in (one, two)]).index
    assert list(keys) == ["strategy.ratio", "data.sha256"]
    shutil.copy(one / "data.sha256", two)
    keys = compare.config_differences([StoredRun.at(folder) for folder in (one, two)]).index
    assert list(keys) == ["strategy.ratio"]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("where", ["nowhere", "file", "file/below", "x" * 300])
def test_a_folder_of_runs_that_is_none_is_one_sentence(
    reader: str, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert READERS[reader](["--runs", str(tmp_path / where)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert str(tmp_path / where) in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")


@pytest.mark.parametrize("where", ["file/report.html", "folder", "x" * 300])
@pytest.mark.parametrize("reader", ["page", "plots"])
def test_a_place_that_cannot_be_written_is_one_sentence(
    reader: str, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "curves.png").mkdir(parents=True)
    main: Callable[[list[str]], int] = {
        "page": page.main,
        "plots": lambda arguments: plots.main(["curves", *arguments]),
    }[reader]
    assert main(["--runs", str(tmp_path), "--out", str(tmp_path / where)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {tmp_path / where}")
    assert "cannot be written" in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("reader", ["results", "tables", "plots"])
@pytest.mark.parametrize("name", ["../tiny", "/tmp", "", ".."])
@pytest.mark.parametrize("option", ["--model", "--benchmark"])
def test_a_name_that_leads_elsewhere_is_refused(
    reader: str, option: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert READERS[reader](["--runs", str(tmp_path), option, name]) == 2
    assert capsys.readouterr().err.startswith(f"error: {option}={name!r} cannot name a folder")
