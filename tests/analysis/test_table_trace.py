"""What other papers print of TRACE: against the paper's own table, flags by hand, and our runs beside them."""

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from trace_cl.analysis import table_trace
from trace_cl.analysis.table_trace import CHANGE, published
from trace_cl.analysis.tables import main
from trace_cl.records.files import PUBLISHED, as_json, write

CONTENT: dict[str, Any] = json.loads((PUBLISHED / "trace.json").read_text())
ENTRIES = published(CONTENT)


def printed(capsys: pytest.CaptureFixture[str]) -> tuple[list[dict[str, str]], list[str]]:
    """The rows of the table, each by column; and the lines below it."""
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    below = lines[2 + len(cells) :]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]], below


def test_the_hft_papers_rows_are_those_of_its_table_3() -> None:
    table3 = json.loads((PUBLISHED / "tables.json").read_text())["table3"]["llama2-chat-7b"]
    names = {"seqft": "SeqFT", "gem": "GEM", "replay": "Replay", "lora_seqft": "LoraSeqFT"}
    expected = {
        names[strategy] + " + HFT" * (side == "hft"): figures
        for strategy, sides in table3.items()
        for side, figures in sides.items()
    }
    rows = {entry.method: [*entry.OP, *entry.BWT] for entry in ENTRIES if entry.source == "HFT, Table 3"}
    assert rows == expected


def test_every_row_says_where_it_is_from_and_what_its_figures_mean() -> None:
    for entry in ENTRIES:
        assert entry.mark in CONTENT["marks"]
        assert entry.paper
        assert entry.sign in ("change", "drop")
        assert entry.divisor in (None, "T", "T-1")
        assert entry.edition in (None, "500", "5000", "Reasoning")
        assert entry.epochs is None or entry.epochs.count("/") == 7
        assert all(0 <= value <= 100 for value in entry.OP if value is not None)


def test_the_sign_is_made_one_in_a_column_that_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "--published"]) == 0
    rows, _ = printed(capsys)
    found = {(row["source"], row["method"], row["model"]): row for row in rows}
    drop = found["TRACE, Table 3", "SeqFT", "Llama-2-7B-Chat"]
    assert (drop["BWT as printed"], drop["sign"], drop[CHANGE]) == ("19.0", "drop", "-19.0")
    assert (drop["edition"], drop["divisor"]) == ("500", "–")
    change = found["HFT, Table 3", "SeqFT", "Llama-2-7B-Chat"]
    assert (change["BWT as printed"], change["sign"], change[CHANGE]) == ("-10.2", "change", "-10.2")
    assert (change["edition"], change["epochs"], change["order"], change["divisor"]) == (
        *("5000", "5/3/7/5/3/5/5/7", "1", "T"),
    )
    other = found["MoRAM", "TreeLoRA", "Gemma-2B-it"]
    assert (other["OP"], other["BWT as printed"], other[CHANGE]) == ("33.41", "8.50", "-8.50")
    assert found["TRACE, Table 1", "ICL", "Llama-2-7B-Chat"][CHANGE] == "–"
    assert {row["method"] for row in rows if row["told the task"]} == {"PP"}
    assert len(rows) == len(ENTRIES) > 50


def test_the_two_papers_that_mix_conventions_are_flagged(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "--published"]) == 0
    rows, below = printed(capsys)
    flagged = [row for row in rows if row["method"].endswith("*")]
    assert [(row["method"], row["source"]) for row in flagged] == [("SeqFT*", "OSFT's table"), ("SeqFT*", "Muon-OGD")]
    notes = [line for line in below if line.startswith("Marked *")]
    assert len(notes) == 2
    assert notes[1] == (
        "Marked *: Muon-OGD prints OP 23.0 and BWT -8.3 of SeqFT as TRACE's, where that OP is of its 500 edition "
        "(OP 23.0 and BWT -19.0), that BWT of its 5000 edition (OP 48.7 and BWT -8.3)."
    )


@pytest.mark.parametrize(
    ("OP", "BWT", "sign", "said"),
    [
        (23.0, -19.0, "change", None),
        (48.7, 8.3, "drop", None),
        (48.7, 8.3, "change", "that BWT of no row."),
        (46.2, -2.3, "change", None),
        (46.6, -2.3, "change", "its 500 edition (OP 46.6 and BWT -13.0), that BWT of its 500 edition (OP 46.2"),
        (23.1, -19.0, "change", "that OP is of no row, that BWT of its 500 edition (OP 23.0 and BWT -19.0)."),
    ],
)
def test_a_copied_pair_is_looked_for_among_the_rows_it_is_of(
    OP: float, BWT: float, sign: str, said: str | None
) -> None:
    row = table_trace.Entry("X", "Y", "Z", "read", [OP], [BWT], sign=sign, copied="TRACE")
    flag = table_trace.mixed(row, ENTRIES)
    assert (flag is None) == (said is None)
    assert said is None or said in str(flag)


def run_of(runs: Path, place: str, BWT: float, tasks: str = "C-STANCE,FOMC", **summary: object) -> None:
    folder = runs / place
    write(folder / "matrix.csv", f"round,{tasks}\n1,50,\n2,{50 + 2 * BWT},60\n")
    write(folder / "summary.json", as_json(summary))
    for t, epochs in ((1, 5), (2, 3)):
        write(folder / "rounds" / f"round{t}.json", as_json({"round": t, "examples": 5000, "epochs": epochs}))


def test_ours_stand_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table_trace, "ORDER", ("C-STANCE", "FOMC"))
    run_of(tmp_path, "trace/llama2-chat-7b/seqft/seed1", -10)
    run_of(tmp_path, "trace/llama2-chat-7b/seqft/seed2", -8)
    run_of(tmp_path, "trace/llama2-chat-7b/progressive_prompts/seed1", 0, tasks="FOMC,C-STANCE", needs_task_id=True)
    run_of(tmp_path, "embedded/tiny/gem/seed1", -1)
    assert main(["trace", "--runs", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("**OP and BWT on TRACE as papers print them; ours: llama2-chat-7b on trace.**\n")
    assert main(["trace", "--runs", str(tmp_path)]) == 0
    rows, _ = printed(capsys)
    assert len(rows) == len(ENTRIES) + 2
    seqft, prompts = rows[-2:]
    # The last row is 30, 60 and 34, 60.
    assert (seqft["OP"], seqft[CHANGE]) == ("46.0 ± 1.4", "-9.0 ± 1.4")
    assert [seqft[key] for key in ("edition", "epochs", "order", "divisor", "source")] == [
        "5000",
        "5/3",
        "1",
        "T",
        "ours",
    ]
    assert (prompts["told the task"], prompts["order"], prompts["BWT as printed"]) == ("yes", "its own", "0.0")
    assert main(["trace", "--model", "tiny", "--runs", str(tmp_path)]) == 0
    assert "; ours: tiny on embedded, which is another benchmark.**" in capsys.readouterr().out
    assert main(["trace", "--published", "--runs", str(tmp_path)]) == 0
    assert "ours" not in capsys.readouterr().out.splitlines()[0]


def test_csv_and_latex(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(tmp_path, "trace/llama2-chat-7b/seqft/seed1", -10)
    assert main(["trace", "--runs", str(tmp_path), "--format", "csv"]) == 0
    said = capsys.readouterr()
    assert "Marked *: Muon-OGD" in said.err
    frame = pd.read_csv(io.StringIO(said.out))
    assert frame["flag"].notna().sum() == 2
    assert frame.iloc[-1][["method", "BWT", "change", "seeds"]].tolist() == ["seqft", -10.0, -10.0, 1]
    assert main(["trace", "--runs", str(tmp_path), "--format", "latex"]) == 0
    document = capsys.readouterr().out
    assert "\\begin{longtable}" in document
    assert "\\begin{table}" not in document, "what floats cannot go over several pages"
    assert "Replay 1\\% & Llama-2-7B-Chat & 48.47 & $-$9.69 &" in document
    assert "setcounter" not in document, "it is none of the paper's"
    assert document.count("\\begin{") == document.count("\\end{")
