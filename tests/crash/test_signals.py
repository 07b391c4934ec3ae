"""Runs that are asked to end, or to put by what they have, at any moment."""

import shlex
from collections.abc import Callable
from pathlib import Path
from random import Random
from signal import SIGINT, SIGTERM, SIGUSR1, Signals
from time import sleep

import pytest
from crash.harness import KILLS, Reference, Runs, calls, differing, folder_of, phase, trained

SETTINGS = ("strategy=gem", "hft=true", "evaluation.zero_shot=false")
"""What is put by first is of training."""

TWO = ("engine=deepspeed", "engine.zero_stage=2")


@pytest.mark.parametrize("asked", [SIGTERM, SIGINT])
@pytest.mark.parametrize(
    "number",
    [pytest.param(number, marks=() if number == 0 else pytest.mark.crash) for number in range(max(2, KILLS // 10))],
)
def test_what_is_asked_to_end_keeps_everything(
    number: int,
    asked: Signals,
    runs: Runs,
    reference: Callable[..., Reference],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """It says how to go on; no step is made twice, and the end is the same. Every fifth time on two ranks."""
    draw, ranks = Random(f"{asked} {number}"), 2 if number % 5 == 1 else 1
    settings = (*SETTINGS, *(TWO if ranks == 2 else ()))
    whole = reference(*settings, ranks=ranks)
    stopped = runs.start(tmp_path, *settings, ranks=ranks)
    assert stopped.ready_for(SIGTERM)  # at SIGINT Python does something from its first moment on
    steps = len((whole.folder / "train.jsonl").read_text().splitlines())
    if number % 2 == 0:  # as it trains; otherwise whenever it comes
        stopped.wait_for_step(draw.randrange(1, steps))
    else:
        sleep(whole.seconds * draw.uniform(0, 0.9))
    stopped.send(asked)
    assert stopped.wait()
    record_property("killed while", phase(tmp_path))
    if stopped.codes == {0}:  # it was about to end
        return
    assert stopped.codes == {128 + asked}, stopped.sentences
    if stopped.sentences != ["interrupted"] * ranks:  # before there was anything to keep
        [sentence] = stopped.sentences
        said, _, command = sentence.partition(" with it: ")
        assert said == f"stopped by {asked.name}; everything is kept, and this goes on"
        assert shlex.split(command) == ["python", "-m", "trace_cl", *runs.arguments(tmp_path, *settings)]
    again = runs.start(tmp_path, *settings, ranks=ranks)
    assert again.wait()
    assert again.codes == {0}, again.sentences
    assert not differing(folder_of(tmp_path), whole.folder)
    assert trained(stopped) + trained(again) == steps


@pytest.mark.parametrize(
    "number",
    [pytest.param(number, marks=() if number == 0 else pytest.mark.crash) for number in range(max(2, KILLS // 10))],
)
def test_what_is_asked_to_put_by_what_it_has_goes_on(
    number: int, runs: Runs, reference: Callable[..., Reference], tmp_path: Path
) -> None:
    """Asked before there is anything, as it begins and somewhere later; and what was put by serves a run that is
    killed afterwards."""
    draw, whole = Random(f"put by {number}"), reference(*SETTINGS)
    started = runs.start(tmp_path, *SETTINGS)
    for waited_for in (SIGTERM, SIGUSR1):
        assert started.ready_for(waited_for)
        started.send(SIGUSR1)
    sleep(whole.seconds / 2 * draw.random())
    started.send(SIGUSR1)
    if number % 2:
        started.kill(after=0)
    else:
        assert started.wait()
        assert (started.codes, started.sentences) == ({0}, [])
        assert any(call.startswith("rename") and call.endswith("/halfway") for call in calls(started))
    assert not differing(runs.finish(tmp_path, *SETTINGS), whole.folder)
