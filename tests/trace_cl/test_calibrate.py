"""What a run will take, against a clock that stands still but where it is told to go on."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import only_run

from trace_cl import calibrate, rounds
from trace_cl.evaluation import Generator
from trace_cl.strategies.base import Example
from trace_cl.training.torch_engine import TorchLearner


class Clock:
    """A second goes by for each token that is learned, and for each prompt that is answered; and ten minutes while the
    first step of a round warms up."""

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self.now = self.cold = 0.0
        for module in (calibrate, rounds):
            patched.setattr(module, "perf_counter", lambda: self.now)
        backward, generate, train = TorchLearner.backward, Generator.generate, rounds.Run.train

        def learn(learner: TorchLearner, examples: Sequence[Example]) -> float:
            self.now += sum(map(len, examples)) + self.cold
            self.cold = 0
            return backward(learner, examples)

        def answer(generator: Generator, prompts: Sequence[Sequence[int]], tokens: int | None = None) -> list[str]:
            self.now += len(prompts)
            return generate(generator, prompts, tokens)

        def begin(run: rounds.Run, round: Any) -> None:
            self.cold = 600
            train(run, round)

        patched.setattr(TorchLearner, "backward", learn)
        patched.setattr(Generator, "generate", answer)
        patched.setattr(rounds.Run, "train", begin)


def planned(run: Callable[..., Path], capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, Any]:
    run("dry_run=json", "calibrate=true", "evaluation.reference_loss=false", *overrides)
    plan: dict[str, Any] = json.loads(capsys.readouterr().out)
    return plan


@pytest.mark.parametrize("strategy", ["seqft", "replay"])
def test_a_few_steps_tell_what_all_of_them_take(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], strategy: str
) -> None:
    """Of 12 examples a task three steps of two are made, and of four prompts two are asked."""
    monkeypatch.setattr(calibrate, "MORE", 3)
    with monkeypatch.context() as patched:
        Clock(patched)
        few = ("training.global_batch=2", "evaluation.tokens_per_batch=1100", f"strategy={strategy}")
        plan = planned(run, capsys, *few)
    for round, planned_round in enumerate(plan["rounds"], start=1):
        assert planned_round["hours"]["training"] * 3600 == pytest.approx(planned_round["tokens"])
        assert planned_round["hours"]["scoring"] * 3600 == pytest.approx(4 * round)
    assert plan["hours"]["zero_shot"] * 3600 == pytest.approx(12)
    assert plan["hours"]["training"] * 3600 == pytest.approx(plan["tokens"]["training"])


def test_nothing_is_left_of_it(
    run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the disk it says it takes: a checkpoint, which is as large as a run's."""
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    plan = planned(run, capsys, "strategy=gem", "hft=true", "evaluation.zero_shot=false")
    assert sorted(tmp_path.rglob("*")) == before
    assert plan["hours"]["zero_shot"] == 0
    assert all(seconds > 0 for round in plan["rounds"] for seconds in round["hours"].values())
    run("strategy=gem", "hft=true")
    checkpoint = sum(file.stat().st_size for file in (only_run(tmp_path / "runs") / "checkpoint").iterdir())
    assert plan["disk"]["checkpoint"] == pytest.approx(checkpoint, rel=0.01)
    assert plan["disk"]["most"] > 2 * checkpoint
