"""The paper's 19 matrices give the figures that the paper prints: OP of every round, BWT, and tables 3, 4 and 7."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from trace_cl.metrics import backward_transfer, overall_performance

PUBLISHED = Path(__file__).parents[1] / "runs" / "published"
TABLES: dict[str, Any] = json.loads((PUBLISHED / "tables.json").read_text())
TASKS = ["C-STANCE", "FOMC", "MeetingBank", "Py150", "ScienceQA", "NumGLUE-cm", "NumGLUE-ds", "20Minuten"]

# Half a unit of the last printed digit, and a thousandth for means that fall on the half.
ROUNDING = 0.051


def matrix(run: str) -> pd.DataFrame:
    return pd.read_csv(PUBLISHED / run / "matrix.csv", index_col="round")


def test_there_are_the_tables_24_to_42_and_nothing_else() -> None:
    assert [int(number) for number in TABLES["matrices"]] == list(range(24, 43))
    assert {str(file.parent.relative_to(PUBLISHED)) for file in PUBLISHED.rglob("matrix.csv")} == set(
        TABLES["matrices"].values()
    )


@pytest.mark.parametrize(("number", "run"), TABLES["matrices"].items())
def test_matrix_agrees_with_what_is_printed_below_it(number: str, run: str) -> None:
    S = matrix(run)
    summary = json.loads((PUBLISHED / run / "summary.json").read_text())
    op = [overall_performance(S, t) for t in range(1, 9)]
    bwt = [backward_transfer(S, t) for t in range(1, 9)]

    assert list(S.columns) == TASKS
    assert list(S.index) == list(range(1, 9))
    assert all(S.iloc[t, t + 1 :].isna().all() for t in range(8))
    assert summary["table"] == int(number)
    assert summary["complete"] is True
    assert summary["OP"] == pytest.approx(op, abs=1e-9)
    assert summary["BWT"] == pytest.approx(bwt, abs=1e-9)
    assert op == pytest.approx(summary["printed"]["OP"], abs=ROUNDING)
    assert bwt[-1] == pytest.approx(summary["printed"]["BWT"], abs=ROUNDING)


def final(run: str) -> list[float]:
    S = matrix(run)
    return [overall_performance(S), backward_transfer(S)]


@pytest.mark.parametrize("model", ["llama2-chat-7b", "llama2-chat-13b"])
def test_table_3_the_methods(model: str) -> None:
    for strategy, printed in TABLES["table3"][model].items():
        assert final(f"{model}/{strategy}") == pytest.approx(printed["fft"], abs=ROUNDING)
        if strategy != "lora_seqft":
            assert final(f"{model}/{strategy}+hft") == pytest.approx(printed["hft"], abs=ROUNDING)


@pytest.mark.parametrize(
    ("level", "method"),
    [
        ("seqft", "seqft"),
        ("model", "seqft+hft-model"),
        ("layer", "seqft+hft-layer"),
        ("category", "seqft+hft"),
    ],
)
def test_table_4_the_levels_of_selection(level: str, method: str) -> None:
    assert final(f"llama2-chat-7b/{method}") == pytest.approx(TABLES["table4"][level], abs=ROUNDING)


@pytest.mark.parametrize(
    ("share", "method"),
    [
        ("38.9% update E,H", "seqft+hft-2x1"),
        ("50.0% update E,H", "seqft+hft"),
        ("61.1% update E,H", "seqft+hft-2x2"),
        ("50.0% freeze E,H", "seqft+hft-frozen_embeddings"),
    ],
)
def test_table_7_the_trained_share(share: str, method: str) -> None:
    assert final(f"llama2-chat-7b/{method}") == pytest.approx(TABLES["table7"][share], abs=ROUNDING)
