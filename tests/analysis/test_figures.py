"""One list of figures: an entry in `FIGURES` is all it takes. And what only reads runs is quick to start."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trace_cl import metrics
from trace_cl.analysis import compare, page, plots, summary, tables
from trace_cl.analysis.report import write_report
from trace_cl.analysis.stored import StoredRun
from trace_cl.metrics import FIGURES, Figure

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def fourth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure more: the best score of the last row."""
    best = Figure("best", lambda scores: np.asarray(scores[..., -1, :].max(axis=-1)), "m", "f")
    for module in (metrics, metrics.matrix):
        monkeypatch.setattr(module, "FIGURES", (*FIGURES, best))


def test_a_fourth_figure_stands_everywhere(
    fourth: None,
    run: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = run()
    best = pd.read_csv(folder / "matrix.csv", index_col="round").max(axis=1).tolist()
    texts = [f"{value:.1f}" for value in best]
    assert json.loads((folder / "summary.json").read_text())["best"] == best
    report = (folder / "report.md").read_text()
    assert report.startswith(f"# {folder.parent.name} on trace, tiny, seed 1\n")
    assert f"| best | {' | '.join(texts)} |" in report
    assert f", best {texts[-1]}**" in report
    assert "; best: m (f)." in report
    [*_, line] = capsys.readouterr().out.strip().splitlines()
    assert line.split() == ["best", *texts], "on the terminal"

    where = ["--runs", str(tmp_path / "runs")]
    assert summary.main([*where, "--benchmark", "trace"]) == 0
    assert f" {texts[-1]} | " in capsys.readouterr().out
    at_its_own_setting = tmp_path / "own" / "trace" / "tiny" / "seqft" / "seed1"
    at_its_own_setting.mkdir(parents=True)
    shutil.copy(folder / "matrix.csv", at_its_own_setting)
    own = ["--runs", str(tmp_path / "own"), "--model", "tiny", "--benchmark", "trace"]
    assert tables.main(["29", *own]) == 0
    printed = capsys.readouterr().out
    assert f"| best | {texts[0]} / 48.5† / " in printed
    assert tables.main(["3", *where]) == 0
    assert " best HFT |" in capsys.readouterr().out
    assert compare.main([str(folder), str(run("hft=true", method="seqft+hft"))]) == 0
    assert "| best | " in capsys.readouterr().out

    assert page.main(where) == 0
    html = unescape((tmp_path / "runs" / "report.html").read_text())
    assert '<th scope="row">best</th>' in html
    assert '<th scope="col">best</th>' in html
    assert f", best {texts[-1]}</b>" in html

    [(_, picture)] = plots.heatmaps([StoredRun.at(folder)], width=3)
    assert picture.axes[0].get_title().endswith(f", best {texts[-1]}")


def test_the_report_says_why_a_figure_is_undefined(tmp_path: Path) -> None:
    about: Mapping[str, Any] = {"method": "joint", "benchmark": "b", "model": "m", "seed": 1, "variant": "standard"}
    record = {
        **{"round": 1, "task": "a", "trainable_share": 0.0, "optimizer_steps": 0, "tokens": 0, "final_loss": None},
        **{"seconds": 0.0, "evaluation_seconds": 1.0, "strategy": {}},
    }
    records = [record, {**record, "round": 2, "task": "b", "final_loss": 0.5, "strategy": {"examples": 8}}]
    details = {"complete": True, "zero_shot": {}, "untrained_rounds": [1]}
    write_report(tmp_path, [[10.0], [50.0, 70.0]], ["a", "b"], records, {**about, **details})
    text = (tmp_path / "report.md").read_text()
    assert "**OP 60.0, BWT –, learned –**" in text
    assert "| OP | 10.0 | 60.0 |\n| BWT | – | – |\n| learned | – | – |" in text
    assert "\nBWT and learned are undefined (–): round 1 trained nothing, so that there is no score just after" in text
    assert "| a |  |  | 50.0 |  |\n| b |  | 70.0 | 70.0 | 0.0 |" in text, "nothing was learned of a in its round"
    assert "| 1 | a | 0.0 | 0 | 0 | – | 0 | 1 |  |\n| 2 | b | 0.0 | 0 | 0 | 0.500 | 0 | 1 | 8 |" in text
    write_report(tmp_path, [[10.0]], ["a", "b"], records[1:], {**about, **details, "untrained_rounds": []})
    assert "undefined" not in (tmp_path / "report.md").read_text()


def test_the_report_says_what_the_method_is_told(tmp_path: Path) -> None:
    about = {"benchmark": "b", "model": "m", "seed": 1, "variant": "standard", "complete": True, "zero_shot": {}}
    record = {
        **{"round": 1, "task": "a", "trainable_share": 0.0, "optimizer_steps": 0, "tokens": 0, "final_loss": 0.5},
        **{"seconds": 0.0, "evaluation_seconds": 1.0, "strategy": {}},
    }
    for said, sentence in (
        ({"needs_task_id": True}, "this method has to be told which task a text belongs to"),
        ({"needs_task_id": False}, "this method is not told which task a text belongs to"),
        ({}, ""),
    ):
        write_report(tmp_path, [[10.0]], ["a"], [record], {**about, **said})
        text = (tmp_path / "report.md").read_text()
        assert sentence in text
        assert text.count("which task a text") == (1 if sentence else 0)


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("tables", ["30", "--published"]),
        ("tables", ["3"]),
        ("results", ["--help"]),
        ("compare", ["--help"]),
        ("plots", ["op_bwt", "--published"]),
        ("page", []),
    ],
)
def test_what_only_reads_runs_imports_no_torch(module: str, arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    drawn = [*arguments, "--out", str(tmp_path / "out")] if module in ("plots", "page") else arguments
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"trace_cl.{module}", *drawn],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "trace_cl.analysis.stored" in imported
    heavy = {"torch", "transformers", "datasets", *(() if module in ("plots", "page") else ("matplotlib",))}
    assert not heavy & imported
