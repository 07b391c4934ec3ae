"""Runs that are killed at any moment, and go on to the very bytes of one that was not."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pytest
from crash.harness import KILLS, Fault, Reference, Runs, differing, phase
from support import compose

from trace_cl.build import build_strategy
from trace_cl.choices import groups
from trace_cl.errors import UserError


def can_be_wrapped(strategy: str) -> bool:
    """Whether half fine-tuning takes it."""
    try:
        return bool(build_strategy(compose(f"strategy={strategy}", "hft=true")))
    except UserError:
        return False


def can_be_killed(strategy: str) -> bool:
    """Whether it makes steps to be killed in; QLoRA packs no matrices as small as the model's here."""
    return strategy != "qlora" and build_strategy(compose(f"strategy={strategy}")).trains


def wants_one_device(settings: Sequence[str]) -> bool:
    """Whether DeepSpeed is refused."""
    return bool({"changing_parameters", "whole_parameters"} & build_strategy(compose(*settings)).uses)


STRATEGIES = [name for name in groups()["strategy"] if can_be_killed(name)]
METHODS = [
    *((f"strategy={name}",) for name in STRATEGIES),
    *((f"strategy={name}", "hft=true") for name in STRATEGIES if can_be_wrapped(name)),
]


def drawn(number: int) -> tuple[tuple[str, ...], int, Random]:
    """What is killed the `number`-th time: the methods in turn, each sixteenth run on two ranks."""
    draw = Random(f"kill {number}")
    settings = (*METHODS[number % len(METHODS)], "checkpoints=all")
    if number % 16 != 7 or wants_one_device(settings):
        return settings, 1, draw
    return (*settings, "engine=deepspeed", f"engine.zero_stage={draw.choice((0, 2, 3))}"), 2, draw


@pytest.mark.parametrize(
    "number", [pytest.param(number, marks=() if number == 2 else pytest.mark.crash) for number in range(KILLS)]
)
def test_a_killed_run_goes_on_to_the_same_bytes(
    number: int,
    runs: Runs,
    reference: Callable[..., Reference],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Once, twice or three times; in the middle of a write, just after a step, or whenever it comes."""
    settings, ranks, draw = drawn(number)
    whole = reference(*settings, ranks=ranks)
    steps = len((whole.folder / "train.jsonl").read_text().splitlines())

    def kill(share: float = 1) -> bool:
        often = f"checkpoint.every_steps={draw.choice(('null', 1, 2, 3))}"
        how = draw.choice(("in a call", "after a step", "whenever"))
        fault = Fault(draw.randrange(1, 1 + int(share * len(whole.calls)))) if how == "in a call" else Fault()
        started = runs.start(tmp_path, *settings, often, ranks=ranks, fault=fault)
        if how == "in a call":
            killed = started.kill()
        elif how == "after a step":
            started.wait_for_step(draw.randrange(1, steps))
            killed = started.kill(after=draw.uniform(0, 0.03))
        else:
            killed = started.kill(after=share * whole.seconds * draw.random())
        record_property("killed while", phase(tmp_path) if killed else "(finished before)")
        return killed

    while not kill():  # it was faster than the one that nothing happened to
        shutil.rmtree(tmp_path / "runs")
    for _ in range(draw.choice((0, 0, 0, 1, 2))):
        kill(share=0.7)
    assert not differing(runs.finish(tmp_path, *settings, ranks=ranks), whole.folder)
