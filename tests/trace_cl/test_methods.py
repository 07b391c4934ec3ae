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
    ("gem", ("strategy=gem", "strategy.memory_gradients=streamed")),
    ("gem+hft", ("strategy=gem", "hft=true")),
    ("replay", ("strategy=replay", "strategy.ratio=0.5")),
    ("replay+hft", ("strategy=replay", "hft=true", "strategy.mix=together")),
    ("lora_seqft", ("strategy=lora_seqft",)),
    ("ewc", ("strategy=ewc", "strategy.strength=10")),
    ("ewc+hft", ("strategy=ewc", "strategy.strength=10", "hft=true")),
    ("lwf+hft", ("strategy=lwf", "hft=true")),
    ("progressive_prompts", ("strategy=progressive_prompts", "strategy.prompt_tokens=3")),
    ("joint", ("strategy=joint",)),
    ("single_task", ("strategy=single_task",)),
    ("single_task+hft", ("strategy=single_task", "hft=true")),
    ("zero_shot", ("strategy=zero_shot",)),
    ("icl", ("strategy=icl", "strategy.demonstrations=2")),
    ("l2sp", ("strategy=l2sp",)),
    ("l2sp+hft", ("strategy=l2sp", "strategy.anchor=round", "hft=true")),
    ("mixout", ("strategy=mixout", "strategy.mask=weight")),
    ("mixout+hft", ("strategy=mixout", "hft=true")),
    ("merge", ("strategy=merge", "strategy.how=dare", "strategy.density=0.7")),
    ("merge+hft", ("strategy=merge", "strategy.how=ties", "strategy.other=base", "hft=true")),
    ("agem", ("strategy=agem", "strategy.memory_size=5")),
    ("agem+hft", ("strategy=agem", "hft=true")),
    ("ogd", ("strategy=ogd", "strategy.examples=4", "strategy.memory_dtype=bf16")),
    ("ogd+hft", ("strategy=ogd", "strategy.examples=4", "hft=true")),
    ("lisa", ("strategy=lisa", "strategy.layers=1", "strategy.period=3")),
    ("lisa+hft", ("strategy=lisa", "strategy.layers=1", "strategy.period=2", "hft=true")),
    ("dynamic_freezing", ("strategy=dynamic_freezing",)),
    ("dynamic_freezing+hft", ("strategy=dynamic_freezing", "hft=true")),
    ("autofreeze", ("strategy=autofreeze", "strategy.tests=1")),
    ("autofreeze+hft", ("strategy=autofreeze", "strategy.tests=3", "hft=true", "model.dtype=bf16")),
    ("der", ("strategy=der", "strategy.memory_size=5", "strategy.memory_batch=3")),
    ("der+hft", ("strategy=der", "hft=true")),
    ("mbpa", ("strategy=mbpa", "strategy.steps=1", "strategy.neighbours=2", "strategy.ratio=0.2")),
    ("mbpa+hft", ("strategy=mbpa", "strategy.steps=1", "strategy.neighbours=2", "strategy.stored=0.5", "hft=true")),
    ("p_tuning", ("strategy=p_tuning", "strategy.prefix_tokens=3")),
    ("l2p", ("strategy=l2p", "strategy.prompt_tokens=2")),
    ("lfpt5", ("strategy=lfpt5", "strategy._target_=protocol.Babbling", "strategy.samples=4")),
    ("o_lora", ("strategy=o_lora", "strategy.norm_strength=0.1")),
    ("adalora", ("strategy=adalora",)),
    ("tree_lora", ("strategy=tree_lora",)),
    ("osf", ("strategy=osf",)),
    ("qlora", ("strategy=qlora", "strategy.r=4", "model.path=null")),  # the small model's rows hold no block
]

UNTRAINED = ("zero_shot", "icl")
"""In whose runs there is no step to be killed in."""


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
        if owner is TorchLearner and method in UNTRAINED:
            continue
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, dies)
            try:
                run(*again)
            except Killed:
                kills += 1
    assert kills == (2 if method in ("joint", *UNTRAINED) else 4)  # joint's first rounds train nothing
    run(*again)
    assert everything(only_run(tmp_path / "again")) == whole
