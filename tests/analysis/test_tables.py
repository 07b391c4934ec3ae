"""The paper's tables against what the paper prints, and our figures beside them by hand."""

import io
import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from trace_cl.analysis.shown import contradictions, latex, pivot
from trace_cl.analysis.tables import main, make, matrices, rendered
from trace_cl.analysis.text import RECOMPUTED
from trace_cl.records.files import PUBLISHED

TABLES = json.loads((PUBLISHED / "tables.json").read_text())


@pytest.mark.parametrize("number", [3, 4, 7, *matrices()])
def test_no_printed_figure_contradicts_its_matrix(number: int, tmp_path: Path) -> None:
    tidy, _ = make(number, None, None, tmp_path)
    assert contradictions(number, tidy) == []


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the published runs, in which a test may change what is printed."""
    copy = tmp_path / "published"
    shutil.copytree(PUBLISHED, copy)
    for module in ("stored", "tables"):
        monkeypatch.setattr(f"trace_cl.analysis.{module}.PUBLISHED", copy)
    return copy


def test_a_contradiction_is_flagged(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = published / matrices()[30] / "summary.json"
    summary = json.loads(path.read_text())
    summary["printed"]["OP"][2] += 0.3
    path.write_text(json.dumps(summary))
    assert main(["30", "--published"]) == 0
    *table, empty, note = capsys.readouterr().out.splitlines()
    assert "| OP | 49.4 | 59.7 | 50.5 |" in table[-2], "what is printed, not what is right"
    assert empty == "", "or Markdown takes the note for a row"
    assert note == "Table 30 prints 50.5 for OP, 3; recomputed from its matrix it is 50.23"


def test_a_contradiction_in_table_3_is_flagged(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = published / "tables.json"
    path.write_text(path.read_text().replace('"hft": [50.2, -5.9]', '"hft": [50.2, -5.2]'))
    assert main(["3", "--published"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "Table 3 prints -5.2 for GEM (llama2-chat-7b), BWT HFT; recomputed from its matrix it is -5.86"
    )


def test_table_3_is_what_the_paper_prints(tmp_path: Path) -> None:
    """To the last digit: GEM's 48.2 stands there though its matrix gives 48.15, of which rounding may make 48.1."""
    tidy, _ = make(3, None, None, tmp_path)
    figures = tidy.set_index(["row", "column"])["published"].dropna()
    names = {"seqft": "SeqFT", "gem": "GEM", "replay": "Replay", "lora_seqft": "LoraSeqFT"}
    expected = {
        (f"{names[strategy]} ({model})", f"{figure} {side.upper()}"): value
        for model, strategies in TABLES["table3"].items()
        for strategy, sides in strategies.items()
        for side, values in sides.items()
        for figure, value in zip(("OP", "BWT"), values, strict=True)
    }
    assert figures.to_dict() == expected
    assert pivot(tidy, published_only=True).loc["GEM (llama2-chat-7b)", "OP FFT"] == "48.2"


@pytest.mark.parametrize("number", [4, 7])
def test_tables_4_and_7_are_what_the_paper_prints(number: int, tmp_path: Path) -> None:
    tidy, _ = make(number, None, None, tmp_path)
    printed = [figure for pair in TABLES[f"table{number}"].values() for figure in pair]
    assert tidy["published"].dropna().tolist() == printed
    assert not (tidy["published"] - tidy["recomputed"]).abs().gt(0.051).any(), "each row stands by its own run"


@pytest.mark.parametrize("number", matrices())
def test_a_matrix_is_what_the_paper_prints_and_nothing_else(number: int, tmp_path: Path) -> None:
    tidy, _ = make(number, None, None, tmp_path)
    shown = pivot(tidy, published_only=True)
    printed = json.loads((PUBLISHED / matrices()[number] / "summary.json").read_text())["printed"]
    assert list(shown.index[-2:]) == ["OP", "BWT"], "the paper prints no other figure"
    assert shown.T["OP"].tolist() == [f"{value:.1f}" for value in printed["OP"]]
    assert shown.T["BWT"].tolist() == [*[""] * 7, f"{printed['BWT']:.1f}"]


def run_of(folder: Path, shift: float) -> None:
    """A finished run: the published matrix of table 29, every score higher by `shift`."""
    folder.mkdir(parents=True)
    matrix = pd.read_csv(PUBLISHED / matrices()[29] / "matrix.csv", index_col="round")
    (matrix + shift).to_csv(folder / "matrix.csv")


def test_ours_stand_beside_the_published_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, shift in ((1, 1.0), (2, 3.0)):
        run_of(tmp_path / "embedded" / "tiny" / "seqft" / f"seed{seed}", shift)
    assert main(["29", "--model", "tiny", "--runs", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    # C-STANCE after round 1 is 48.5 in the paper; ours are 49.5 and 51.5, whose standard deviation is √2.
    assert "| C-STANCE | 50.5 ± 1.4 / 48.5 / +2.0 |" in printed
    [bwt] = [line for line in printed.splitlines() if line.startswith("| BWT |")]
    assert bwt.endswith("| -10.2 ± 0.0 / -10.2 / +0.0 |"), "BWT does not see a shift"
    assert f"| 0.6 ± 0.0 / 0.6{RECOMPUTED} / +0.0 |" in bwt, "the paper prints the last BWT alone"
    assert printed.splitlines()[-1] == f"Marked {RECOMPUTED}: the paper does not print it; recomputed from its matrix."
    assert "missing" not in printed


def test_a_missing_run_is_a_dash_and_says_how_to_make_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["33", "--model", "tiny", "--runs", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "| C-STANCE | – / 51.7 / – |" in printed
    assert printed.splitlines()[-1] == "runs are missing (–): make table33 MODEL=tiny BENCHMARK=embedded makes them"


def test_make_is_not_told_to_do_what_it_has_just_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["33", "--runs", str(tmp_path), "--tried"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "runs are missing (–)"


def test_a_run_without_a_bwt_is_not_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "trace" / "llama2-chat-7b" / "seqft" / "seed1"
    run_of(folder, 0)
    (folder / "summary.json").write_text('{"untrained_rounds": [1, 2, 3, 4, 5, 6, 7]}')
    assert main(["29", "--runs", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "| – / -10.2 / – |" in printed
    assert "| OP | 48.5 / 48.5 / +0.0 |" in printed
    assert "missing" not in printed


def test_a_damaged_run_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "trace" / "llama2-chat-7b" / "seqft" / "seed1"
    run_of(folder, 0)
    (folder / "matrix.csv").write_text("round,a,b\n1,x,\n")
    assert main(["29", "--runs", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {folder / 'matrix.csv'} is damaged (")
    assert printed.err.count("\n") == 1


def test_csv_is_tidy_with_full_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["30", "--format", "csv", "--runs", str(tmp_path)]) == 0
    frame = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert list(frame.columns) == ["row", "column", "published", "recomputed", "ours", "std", "seeds", "difference"]
    assert len(frame) == 36 + 8 + 8 + 8
    op = frame[(frame["row"] == "OP") & (frame["column"] == 3)]
    assert op["published"].item() == 50.2
    assert op["recomputed"].item() == pytest.approx((45.6 + 57.7 + 47.4) / 3, abs=1e-9)


def test_the_gain_stands_in_brackets() -> None:
    tidy, _ = make(3, None, None, Path("nowhere"))
    assert pivot(tidy, published_only=True).loc["SeqFT (llama2-chat-7b)", "OP HFT"] == "51.3 (+5.6)"


def test_latex_is_a_whole_document_without_a_bare_special_sign() -> None:
    tidy, caption = make(7, None, None, Path("nowhere"))
    document = latex(pivot(tidy, published_only=True), caption)
    assert document.startswith("\\documentclass")
    assert "\\toprule" in document
    assert "38.9\\%, update E,H & 49.6 & $-$5.6" in document
    assert "\\setcounter{table}{6}" in document, "it is numbered as in the paper"
    assert document.count("\\begin{") == document.count("\\end{")


def test_latex_sets_published_and_difference_below_ours(tmp_path: Path) -> None:
    for seed, shift in ((1, 1.0), (2, 3.0)):
        run_of(tmp_path / "embedded" / "tiny" / "seqft" / f"seed{seed}", shift)
    tidy, caption = make(29, "tiny", None, tmp_path)
    document = latex(pivot(tidy, published_only=False), caption)
    assert "C-STANCE & \\both{50.5 $\\pm$ 1.4}{48.5 / +2.0} &" in document
    assert "\\both{$-$10.2 $\\pm$ 0.0}{$-$10.2 / +0.0} \\\\" in document
    assert "\\both{0.6 $\\pm$ 0.0}{0.6$^\\dagger$ / +0.0}" in document
    assert "$^\\dagger$ not printed in the paper but recomputed" in document
    assert "Table" not in document, "LaTeX itself says it before the caption"
    assert "llama2-chat-7b" in document, "a hyphen in a name is no minus"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
@pytest.mark.parametrize("number", [3, 4, 7, 30])
def test_latex_compiles_as_it_is_and_fits_the_page(number: int, tmp_path: Path) -> None:
    for method in ("seqft", "seqft+hft"):
        for seed, shift in ((1, 1.0), (2, 10.0)):
            run_of(tmp_path / "embedded" / "tiny" / method / f"seed{seed}", shift)
    tidy, caption = make(number, "tiny", None, tmp_path)
    for published_only in (True, False):
        (tmp_path / "table.tex").write_text(latex(pivot(tidy, published_only), caption), encoding="utf-8")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        assert "Overfull" not in done.stdout


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
@pytest.mark.parametrize("table", ["5", "trace"])
def test_the_latex_of_the_others_compiles_too(table: str, tmp_path: Path) -> None:
    for seed, shift in ((1, 1.0), (2, 10.0)):
        run_of(tmp_path / "embedded" / "tiny" / "seqft" / f"seed{seed}", shift)
    for published_only in (True, False):
        shown = rendered(table, "tiny", None, tmp_path, published_only)
        (tmp_path / "table.tex").write_text(latex(shown.wide, shown.caption), encoding="utf-8")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        assert "Overfull" not in done.stdout


def test_table_5_in_latex_is_grouped() -> None:
    shown = rendered("5", None, None, Path("nowhere"), published_only=True)
    document = latex(shown.wide, shown.caption)
    assert "\\midrule\n\\textbf{sparse} &" in document
    assert document.count("\\midrule") == 4, "one a group: the head's is the first group's"
    assert "\\setcounter{table}{4}" in document
    assert document.count("\\begin{") == document.count("\\end{")


def test_an_unknown_table_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["23"]) == 2
    assert (
        capsys.readouterr().err
        == "error: there is no table 23 here: choose 3, 4, 5, 7, 12, 24 to 42, trace or metrics\n"
    )
