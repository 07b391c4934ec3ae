"""Zero-shot: nothing is trained, and no answer asked for twice."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support import TASKS, compose, results

from trace_cl import rounds
from trace_cl.build import build_strategy
from trace_cl.data.benchmark import Task
from trace_cl.errors import UserError
from trace_cl.records.predictions import Prediction


def test_every_row_is_the_base_models(
    run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a strategy that trains nothing either, and asks for every answer in every round."""
    anew = run("strategy._target_=protocol.ZeroShot", f"runs_dir={tmp_path / 'anew'}", method="zero_shot")
    asked = list[str]()
    ask = rounds.Run.asked_for

    def noting(self: rounds.Run, round: int, task: Task) -> list[Prediction]:
        asked.append(f"{round}/{task.name}")
        return ask(self, round, task)

    monkeypatch.setattr(rounds.Run, "asked_for", noting)
    folder = run("strategy=zero_shot", method="zero_shot")
    assert results(folder) == results(anew)
    assert asked == [*(f"0/{task}" for task in TASKS), *(f"{t}/{task}" for t, task in enumerate(TASKS, start=1))]
    assert not (folder / "checkpoint").exists()


def test_no_half_of_nothing() -> None:
    with pytest.raises(UserError, match="strategy=zero_shot: it trains nothing"):
        build_strategy(compose("strategy=zero_shot", "hft=true"))
