"""Numbers that go wrong: what is said, what is kept, and that nothing finished is lost."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import only_run
from torch import Tensor

from trace_cl.errors import UserError
from trace_cl.strategies.base import Batch, Learner, Model, Round
from trace_cl.strategies.progressive_prompts import ProgressivePrompts
from trace_cl.strategies.replay import Replay
from trace_cl.strategies.seqft import SeqFT
from trace_cl.training.failures import numbers

Run = Callable[..., Path]


def broken(loss: Tensor, how: str) -> Tensor:
    """A loss that is not a number; or one that is nothing, and whose gradient is not a number."""
    return loss * math.nan if how == "loss" else loss + 0 * (loss - loss).sqrt()


def poison(monkeypatch: pytest.MonkeyPatch, kind: type[Any], sick: Callable[[Round], list[Any]], how: str) -> None:
    """Let these examples, the same as the answers they have, break the second round."""
    chosen: set[int] = set()

    def begin_round(self: Any, round: Round, learner: Learner) -> None:
        if round.number == 2:
            chosen.update(id(example.answer) for example in sick(round))

    def loss(self: Any, model: Model, batch: Batch) -> Tensor:
        value = model.mean(batch)
        return broken(value, how) if any(id(example.answer) in chosen for example in batch.examples) else value

    monkeypatch.setattr(kind, "begin_round", begin_round)
    monkeypatch.setattr(kind, "loss", loss)


@pytest.mark.parametrize(
    ("strategy", "kind", "how"),
    [
        ("seqft", SeqFT, "loss"),
        ("seqft", SeqFT, "gradient's norm"),
        ("progressive_prompts", ProgressivePrompts, "loss"),
    ],
)
def test_it_names_round_step_and_rows_and_keeps_them(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, kind: type[Any], how: str
) -> None:
    poison(monkeypatch, kind, lambda round: [round.task.train[3], round.task.train[10]], how)
    with pytest.raises(UserError) as caught:
        run(f"strategy={strategy}", method=strategy)
    folder = only_run(tmp_path / "runs")
    [kept] = (folder / "failures").iterdir()
    record = json.loads(kept.read_text())
    step = record["step"]
    assert kept.name == f"round2-step{step}.json"
    assert f"the {how} is nan in round 2 (FOMC), step {step}, on FOMC " in str(caught.value)
    assert f"failures/{kept.name}" in str(caught.value)
    assert (record["phase"], record["epoch"], record[how]) == ("FOMC", 1, "nan")
    sick = [row for row in record["rows"] if "nan" in (row["loss"], row["gradient_norm"])]
    assert {row["row"] for row in sick} <= {3, 10}
    assert ", ".join(f"FOMC {row['row']}" for row in sick) in str(caught.value)
    healthy = [row for row in record["rows"] if row not in sick]
    assert len(healthy) + len(sick) in (5, 2)
    assert all(0 < row["loss"] < 20 and 0 < row["gradient_norm"] < 1000 for row in healthy), "the weights are whole yet"
    assert len((folder / "matrix.csv").read_text().splitlines()) == 2
    # The finished round is there, and once the cause is gone the run goes on.
    monkeypatch.undo()
    run(f"strategy={strategy}", method=strategy)
    assert json.loads((folder / "summary.json").read_text())["complete"]


def test_replayed_rows_are_found_by_task_and_row(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, Replay, lambda round: [round.past[0].train[2], round.instructions[7]], "loss")
    with pytest.raises(UserError, match=r"round 2 \(FOMC\), step \d+, on (C-STANCE 2|instructions 7)"):
        run("strategy=replay", "strategy.ratio=0.5", method="replay")
    [kept] = (only_run(tmp_path / "runs") / "failures").iterdir()
    record = json.loads(kept.read_text())
    assert record["phase"] == "replay"
    assert {row["task"] for row in record["rows"]} <= {"C-STANCE", "instructions"}


def test_a_strategys_own_number_is_looked_at_too(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SeqFT, "adjust_gradients", lambda *_: {"inside": {"penalty": [1.0, math.inf]}})
    with pytest.raises(
        UserError, match=r"the penalty is inf in round 1 \(C-STANCE\), step 1, on no row by itself among"
    ):
        run()
    assert not (only_run(tmp_path / "runs") / "checkpoint").exists()


def test_every_number_is_looked_at() -> None:
    values = {"a": 1, "b": {"c": 2.5, "d": [3, {"e": 4}]}, "f": "5", "g": None}
    assert list(numbers(values)) == [("a", 1), ("c", 2.5), ("d", 3), ("e", 4)]
    assert torch.tensor([number for _, number in numbers(values)]).isfinite().all()
