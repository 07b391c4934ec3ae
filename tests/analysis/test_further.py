"""Figures by other papers' definitions, wherever they are shown: against the functions, and by hand."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trace_cl import metrics
from trace_cl.analysis import compare, summary, tables
from trace_cl.analysis.baselines import further, missing
from trace_cl.analysis.bootstrap import DRAWS, interval, intervals
from trace_cl.analysis.further import EVERY
from trace_cl.analysis.page import find_runs, render
from trace_cl.analysis.stored import StoredRun
from trace_cl.choices import compose
from trace_cl.errors import UserError


def scores_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "matrix.csv", index_col="round")


def test_every_figure_of_a_run_and_its_bounds(
    run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bounds are of the same seed; what is missing is said, until there is nothing."""
    folder = run("evaluation.tasks=all")
    matrix = scores_of(folder)
    assert matrix.notna().all(axis=None), "the tasks to come are scored too"
    base = json.loads((folder / "summary.json").read_text())["zero_shot"]
    assert StoredRun.at(folder).rows == [[*map(float, row[:t])] for t, row in enumerate(matrix.to_numpy(), start=1)]
    wanted = missing(StoredRun.at(folder))
    assert wanted.keys() == {"FWT, single-task", "intransigence"}
    single, joint = run("strategy=single_task"), run("strategy=joint")
    for (figure, command), made in zip(wanted.items(), (single, joint), strict=True):
        assert f"- {figure}: `{command}`" in (folder / "report.md").read_text()
        *python, first = shlex.split(command)[:4]
        assert python == ["python", "-m", "trace_cl"]
        assert first == f"strategy={made.parent.name.partition('-')[0]}"
    assert not missing(StoredRun.at(folder))

    alone = scores_of(single).to_numpy().diagonal()
    together = scores_of(joint).to_numpy()[-1]
    expected = {
        "mean OP": metrics.average_performance(matrix),
        "BWT, t−1": metrics.backward_transfer(matrix, divisor="t-1"),
        "forgetting": metrics.forgetting(matrix),
        "FWT, zero-shot": metrics.forward_transfer(matrix, [base[task] for task in matrix]),
        "FWT, single-task": metrics.forward_transfer(matrix, alone.tolist(), of="learned"),
        "intransigence": metrics.intransigence(matrix, together.tolist()),
    }
    assert {name: values[-1] for name, values in further(StoredRun.at(folder)).items()} == pytest.approx(expected)

    capsys.readouterr()
    assert compare.main([str(single), str(folder)]) == 0
    compared = capsys.readouterr().out
    where = ["--runs", str(tmp_path / "runs"), "--benchmark", "trace"]
    assert summary.main(where) == 0
    results = capsys.readouterr().out
    assert tables.main(["metrics", *where, "--model", "tiny"]) == 0
    table = capsys.readouterr().out
    page = render(find_runs(tmp_path / "runs"), limit=1)
    for name, value in expected.items():
        line = next(line for line in compared.splitlines() if line.startswith(f"| {name} | "))
        assert f" | {value:z.1f} [" in line
        assert name in results
        assert f"{value:z.1f} / " in table
        assert f"<td>{value:z.1f}</td>" in page or f"<td>{value:+z.1f}</td>" in page
    assert "missing" not in results


def test_another_seed_or_other_data_bound_nothing(run: Callable[..., Path]) -> None:
    folder = run()
    run("strategy=joint", "seed=2")
    run("strategy=joint", "benchmark.max_test=2")
    assert "intransigence" in missing(StoredRun.at(folder))
    assert further(StoredRun.at(folder))["intransigence"] == [None, None, None]
    same = run("strategy=joint", "training.learning_rate=0.02")  # trained otherwise, but scored on the same
    assert "intransigence" not in missing(StoredRun.at(folder))
    last = scores_of(same).to_numpy()[-1].tolist()
    assert further(StoredRun.at(folder))["intransigence"][-1] == metrics.intransigence(scores_of(folder), last)


def test_intervals_are_written_when_the_run_is_complete(run: Callable[..., Path]) -> None:
    """OP's from the stored predictions, drawn here task by task."""
    folder = run("evaluation.zero_shot=false")
    said = json.loads((folder / "summary.json").read_text())
    generator, last = np.random.default_rng(7), []
    for task in scores_of(folder):
        lines = (folder / "predictions" / "round3" / f"{task}.jsonl").read_text().splitlines()
        scores = np.array([json.loads(line)["score"] for line in lines])
        last.append(scores[generator.integers(len(scores), size=(DRAWS, len(scores)))].mean(axis=1))
    assert said["intervals"]["OP"] == pytest.approx(interval(np.mean(last, axis=0)).tolist(), abs=3)
    assert said["intervals"].keys() == {"OP", "BWT", "learned", "mean OP", "BWT, t−1", "forgetting"}
    assert said["further"].keys() == {"mean OP", "BWT, t−1", "forgetting"}
    low, high = said["intervals"]["OP"]
    assert (
        f"| OP | {said['OP'][-1]:+z.1f}".replace("+", "") + f" | [{low:z.1f}, {high:z.1f}] |"
        in (folder / "report.md").read_text()
    )


def test_a_run_goes_on_without_what_cannot_be_told(run: Callable[..., Path]) -> None:
    bound = run("strategy=joint")
    (bound / "matrix.csv").write_text("round,a\n1,900\n")
    folder = run()
    assert "joint" in json.loads((folder / "summary.json").read_text())["no_intervals"]
    assert f"They cannot be told: {bound}" in (folder / "report.md").read_text()
    with pytest.raises(UserError, match="is damaged"):
        further(StoredRun.at(folder))


def test_the_tasks_to_come_are_not_asked_of_who_must_be_told_the_task(run: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"evaluation.tasks=all asks for tasks that are not learned yet"):
        run("strategy=single_task", "evaluation.tasks=all")


def test_a_figure_that_needs_a_missing_run_has_no_interval(run: Callable[..., Path]) -> None:
    stored = StoredRun.at(run())
    assert set(intervals(stored, EVERY, {"OP": 1.0})) == {"OP"}
    with pytest.raises(KeyError):
        intervals(stored, EVERY, {"intransigence": 1.0})


def test_the_command_in_a_report_makes_the_run(run: Callable[..., Path]) -> None:
    """The settings of the benchmark and of scoring are those of the run that it bounds."""
    folder = run("benchmark.max_test=2", "benchmark.epochs=1", "training.clip_norm=0.5", "strategy=lora_seqft")
    command = missing(StoredRun.at(folder))["intransigence"]
    config = compose(shlex.split(command)[3:])
    assert (config.benchmark.max_test, config.benchmark.epochs, config.training.clip_norm) == (2, 1, 0.5)
    assert list(config.benchmark.order) == StoredRun.at(folder).tasks
    assert config.strategy._target_.endswith("Joint")
