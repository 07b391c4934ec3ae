"""Table 12 against what the paper prints, and our runs beside it by hand."""

import json
import shutil
import subprocess
from pathlib import Path
from statistics import mean

import pytest
from support import shown

from trace_cl.analysis.stored import StoredRun
from trace_cl.analysis.tables import main
from trace_cl.records.files import PUBLISHED, as_json, write

PRINTED = json.loads((PUBLISHED / "table12.json").read_text())
ROWS = {(model, method): row for model, rows in PRINTED["rows"].items() for method, row in rows.items()}


def run_of(runs: Path, method: str, seed: int, base: dict[str, float], after: dict[str, float]) -> Path:
    """A finished run of two tasks whose rounds record these abilities."""
    folder = runs / "embedded" / "tiny" / method / f"seed{seed}"
    write(folder / "matrix.csv", "round,a,b\n1,80,\n2,30,50\n")
    for t, scores in ((0, base), (2, after)):
        write(folder / "rounds" / f"round{t}.json", as_json({"round": t, "abilities": scores}))
    return folder


@pytest.mark.parametrize("row", ROWS)
def test_the_mean_that_is_printed_is_that_of_the_nine(row: tuple[str, str]) -> None:
    assert len(ROWS[row]["scores"]) == len(PRINTED["abilities"]) == 9
    assert round(mean(ROWS[row]["scores"]), 1) == pytest.approx(ROWS[row]["mean"], abs=0.01)


def test_some_figures_as_the_paper_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    """By hand from the paper."""
    assert main(["12", "--published"]) == 0
    table = shown(capsys)
    assert len(table) == 2 + 14
    for row, scores in (
        ("SeqFT (llama2-chat-7b)", "35.5 3.0 24.3 39.1 42.7 0.3 10.0 23.9 14.0 21.4"),
        ("Replay with HFT (llama2-chat-7b)", "47.9 11.0 38.8 42.6 42.5 12.7 10.7 38.4 12.9 28.6"),
        ("SeqFT with HFT (llama2-chat-13b)", "50.0 7.0 46.3 47.2 41.4 11.2 14.7 50.6 18.7 31.9"),
    ):
        assert table[row] == scores.split()


def test_ours_stand_beside_the_nine_where_they_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_of(tmp_path, "seqft", 1, {"facts": 60, "parts": 80}, {"facts": 10, "parts": 20})
    run_of(tmp_path, "seqft", 2, {"facts": 60, "parts": 80}, {"facts": 20, "parts": 20})
    command = ["12", "--model", "tiny", "--runs", str(tmp_path)]
    assert main(command) == 0
    table = shown(capsys)
    assert table[""][-3:] == ["overall", "our mean", "our ΔR"]
    # The means are 15 and 20, the base model's is 70: the deviation of two is their distance over √2.
    assert table["SeqFT (llama2-chat-7b)"][-3:] == ["21.4", "17.5 ± 3.5", "-52.5 ± 3.5"]
    assert table["GEM (llama2-chat-7b)"][-2:] == ["–", "–"]
    for name, score in zip(PRINTED["abilities"], range(10, 100, 10), strict=True):
        write(folder / "abilities" / "round2" / f"{name}.json", as_json({"score": score}))
    shutil.rmtree(tmp_path / "embedded" / "tiny" / "seqft" / "seed2")
    assert main(command) == 0
    row = shown(capsys)["SeqFT (llama2-chat-7b)"]
    assert row[0] == "10.0 / 35.5 / -25.5"
    assert row[-3:] == ["50.0 / 21.4 / +28.6", "50.0", "–"], "the base model was not asked for the nine"
    assert StoredRun.at(folder).abilities(0) == {}, "what was measured and what the run has scored do not mix"


def test_a_score_that_is_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_of(tmp_path, "seqft", 1, {}, {})
    write(folder / "abilities" / "round2" / "MMLU.json", as_json({"score": 101}))
    assert main(["12", "--model", "tiny", "--runs", str(tmp_path)]) == 2
    assert "MMLU.json is damaged (its score is none)" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_its_latex_compiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(tmp_path, "seqft", 1, {"facts": 60}, {"facts": 10})
    assert main(["12", "--model", "tiny", "--runs", str(tmp_path), "--format", "latex"]) == 0
    (tmp_path / "table.tex").write_text(capsys.readouterr().out)
    subprocess.run(["pdflatex", "-interaction=batchmode", "table.tex"], cwd=tmp_path, check=True)
