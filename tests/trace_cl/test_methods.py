"""Every method in whole runs, killed inside its rounds and between them, and continued."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support import Killed, everything, killed_after, killed_at, only_run

from trace_cl import run as runner
from trace_cl.training.torch_engine import TorchLearner

pytestmark = pytest.mark.methods

Run = Callable[..., Path]

METHODS = [
    ("seqft", ()),
    ("seqft+hft", ("hft=true",)),
    ("gem", ("strategy=gem", "strategy.memory_size=5")),
    ("gem", ("strategy=gem", "strategy.memory=last_batch", "strategy.projection=tensor")),
    ("gem+hft", ("strategy=gem", "hft=true")),
    ("replay", ("strategy=replay", "strategy.ratio=0.5")),
    ("replay+hft", ("strategy=replay", "hft=true", "strategy.mix=together")),
    ("lora_seqft", ("strategy=lora_seqft",)),
    ("ewc", ("strategy=ewc", "strategy.strength=10")),
    ("ewc+hft", ("strategy=ewc", "strategy.strength=10", "hft=true")),
    ("lwf+hft", ("strategy=lwf", "hft=true")),
    ("progressive_prompts", ("strategy=progressive_prompts", "strategy.prompt_tokens=3")),
    ("joint", ("strategy=joint",)),
    # bounds
    # penalties, merging
    # gradients, freezing
    # memories
    ("p_tuning", ("strategy=p_tuning", "strategy.prefix_tokens=3")),
    ("l2p", ("strategy=l2p", "strategy.prompt_tokens=2")),
    ("lfpt5", ("strategy=lfpt5", "strategy._target_=protocol.Babbling", "strategy.samples=4")),
    # low-rank adapters
    # peft's
]


@pytest.mark.parametrize(("method", "overrides"), METHODS)
def test_killed_inside_rounds_and_between_them_and_continued(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, overrides: tuple[str, ...]
) -> None:
    whole = everything(run(*overrides, method=method))
    again = (*overrides, f"runs_dir={tmp_path / 'again'}", "checkpoint.every_steps=2")
    kills = 0
    for owner, name, dies in (
        (TorchLearner, "step", killed_at(TorchLearner.step, 4)),  # in round 1, where steps 1 and 2 are put by
        (runner.Run, "finish", killed_after(runner.Run.finish)),
        (TorchLearner, "step", killed_at(TorchLearner.step, 8)),
        (runner.Run, "evaluate", killed_at(runner.Run.evaluate, 1)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, dies)
            try:
                run(*again)
            except Killed:
                kills += 1
    assert kills == (4 if method != "joint" else 2)  # whose first rounds train nothing
    run(*again)
    assert everything(only_run(tmp_path / "again")) == whole
