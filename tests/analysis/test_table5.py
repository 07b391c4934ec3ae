"""Table 5 against what the paper prints, and our runs beside it by hand."""

import io
import json
from pathlib import Path
from statistics import mean

import pandas as pd
import pytest
from support import compose, shown

from trace_cl.analysis import table5
from trace_cl.analysis.tables import MODELS, main
from trace_cl.build import build_strategy
from trace_cl.choices import groups
from trace_cl.config import CONF_DIR
from trace_cl.identity import run_folder
from trace_cl.records.files import PUBLISHED, as_json, write

PRINTED = json.loads((PUBLISHED / "table5.json").read_text())
ROWS = {row: figures for rows in PRINTED["groups"].values() for row, figures in rows.items()}

MISSING = "runs are missing (–): make table5 MODEL=tiny BENCHMARK=embedded makes them"


def run_of(runs: Path, method: str, seed: int, OP: float, losses: list[float | None] | None, **summary: object) -> None:
    """A finished run of two tasks."""
    folder = runs / "embedded" / "tiny" / method / f"seed{seed}"
    write(folder / "matrix.csv", f"round,a,b\n1,80,\n2,{OP - 10},{OP + 10}\n")
    write(folder / "summary.json", as_json({**summary, **({} if losses is None else {"general_loss": losses})}))


@pytest.mark.parametrize("row", ROWS)
def test_the_mean_that_is_printed_is_that_of_the_nine(row: str) -> None:
    assert len(ROWS[row]["scores"]) == len(PRINTED["abilities"]) == 9
    assert round(mean(ROWS[row]["scores"]), 1) == pytest.approx(ROWS[row]["mean"], abs=0.01)


def test_some_figures_as_the_paper_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    """By hand from the paper: first and last of each group, in the paper's order of groups and rows."""
    assert main(["5", "--published"]) == 0
    table = shown(capsys)
    assert list(table)[2:] == [
        *("**sparse**", "LoRA", "QLoRA", "AdaLoRA", "P-tuning", "Mixout"),
        *("**merging**", "TIES (P+S)", "DARE (P+S)", "TIES (S+D)", "DARE (S+D)", "Average (S+D)"),
        *("**freezing**", "AutoFreeze", "SmartFRZ", "LISA"),
        *("**HFT**", "HFT (S)"),
    ]
    for row, scores in (
        ("LoRA", "46.8 18.0 39.5 51.7 44.8 27.3 12.7 36.2 17.8 32.8"),
        ("Mixout", "48.1 24.5 41.0 49.8 42.3 33.7 4.5 28.2 15.5 32.0"),
        ("Average (S+D)", "49.0 22.0 45.1 52.8 42.5 32.6 7.5 35.6 14.0 33.5"),
        ("LISA", "50.1 27.0 43.2 51.7 45.2 29.7 6.0 31.0 14.7 33.2"),
        ("HFT (S)", "50.8 30.5 43.6 52.3 45.4 34.6 6.2 32.8 15.4 34.6"),
    ):
        assert table[row] == scores.split()


def test_a_mean_that_is_not_that_of_the_nine_is_flagged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = json.loads(json.dumps(PRINTED))
    changed["groups"]["freezing"]["LISA"]["mean"] += 0.2
    write(tmp_path / "table5.json", as_json(changed))
    assert main(["5", "--published"]) == 0
    assert "prints" not in capsys.readouterr().out
    monkeypatch.setattr(table5, "PUBLISHED", tmp_path)
    assert main(["5", "--published"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "Table 5 prints 33.4 for LISA, overall; recomputed from its nine abilities it is 33.18"
    )


def test_ours_stand_beside_the_abilities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(tmp_path, "qlora", 1, OP=40, losses=[1.0, 0.75])
    run_of(tmp_path, "qlora", 2, OP=50, losses=[1.0, 0.85])
    run_of(tmp_path, "merge-how_ties", 1, OP=60, losses=[None, None])
    run_of(tmp_path, "seqft", 1, OP=30, losses=None, needs_task_id=True)
    run_of(tmp_path, "qlora-r4", 1, OP=90, losses=[0.0, 0.0])
    assert main(["5", "--model", "tiny", "--runs", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "where OP, BWT and the loss on general text (nats a token) stand in for the abilities" in printed
    assert printed.splitlines()[-1] == MISSING
    assert main(["5", "--model", "tiny", "--runs", str(tmp_path)]) == 0
    table = shown(capsys)
    assert table[""][-4:] == ["overall", "OP", "BWT", "loss"]
    # 80 at first, OP − 10 at the end, over two tasks: −25 and −20, whose standard deviation is 5/√2.
    assert table["QLoRA"][-4:] == ["25.4", "45.0 ± 7.1", "-22.5 ± 3.5", "0.80 ± 0.07"]
    assert table["TIES (S+D)"][-3:] == ["60.0", "-15.0", "–"]
    assert table["SeqFT (told the task)"] == [*[""] * 10, "30.0", "-30.0", "–"]
    assert table["LoRA"][-3:] == ["–"] * 3
    assert table["SmartFRZ"][-4:] == ["31.8", "", "", ""], "nobody has its predictor"


def test_nothing_is_missing_once_every_row_has_its_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method in table5.METHODS.values():
        run_of(tmp_path, method, 1, OP=40, losses=None)
    assert main(["5", "--model", "tiny", "--runs", str(tmp_path)]) == 0
    assert "missing" not in capsys.readouterr().out


def test_csv_has_a_line_a_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(tmp_path, "lora_seqft", 1, OP=40, losses=[1.0, 0.123456])
    assert main(["5", "--model", "tiny", "--runs", str(tmp_path), "--format", "csv"]) == 0
    frame = pd.read_csv(io.StringIO(capsys.readouterr().out)).set_index(["row", "column"])
    assert frame.loc[("LoRA", "loss"), "ours"] == 0.123456
    assert frame.loc[("HFT (S)", "overall"), "recomputed"] == pytest.approx(mean(ROWS["HFT (S)"]["scores"]))
    assert len(frame) == 14 * 10 + 14 * 3


def test_every_row_but_one_has_a_method() -> None:
    assert ROWS.keys() - table5.METHODS.keys() == {"SmartFRZ"}
    assert table5.METHODS.keys() - ROWS.keys() == {"SeqFT"}


def test_the_experiments_lead_to_the_rows_runs() -> None:
    """Those of methods that there are."""
    presets = [name for name in groups()["experiment"] if name.startswith("table5-")] + [
        "table29",
        "table30",
        "table35",
    ]
    there = set(groups()["strategy"])
    made = set()
    for preset in presets:
        text = (CONF_DIR / "experiment" / f"{preset}.yaml").read_text()
        strategy = text.partition("override /strategy: ")[2].split()[0]
        if strategy in there:
            for model, benchmark in (("tiny", "embedded"), (MODELS[0], "trace")):
                config = compose(f"experiment={preset}", f"model={model}")
                folder = run_folder(config, build_strategy(config).name)
                assert folder.parts[:3] == ("runs", benchmark, model)
                made.add(folder.parts[3])
    named = {method for method in table5.METHODS.values() if method.partition("-")[0].partition("+")[0] in there}
    assert made == named
