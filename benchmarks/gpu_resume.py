"""A run of a second model's size is killed in its second round, and goes on: what the same command makes of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from gpu_bench import Bench, Part
from models import save_random_model

from trace_cl.config import as_dict
from trace_cl.records.files import read_matrix

ROUNDS = [
    "benchmark.order=[C-STANCE,Py150]",
    "benchmark.epochs=1",
    "benchmark.max_train=64",
    "benchmark.max_test=8",
    "benchmark.tasks.C-STANCE.answer_tokens=16",
    "benchmark.tasks.Py150.answer_tokens=16",
    "benchmark.general=null",
    "benchmark.abilities=null",
    "training.global_batch=16",
    "evaluation.zero_shot=false",
    "checkpoint.every_minutes=null",
]
"""Two rounds of four steps each. Py150's answers have scores other than 0 before anything is learned."""


def resume(bench: Bench) -> None:
    """Two runs of one configuration, of which one is killed by `kill -9` at the first step of its second round."""
    second = bench.second()
    config = second.compose(*ROUNDS)
    device, dtype = second.place
    with TemporaryDirectory() as scratch:
        began = perf_counter()
        folder = Path(scratch, "model")
        save_random_model(folder, as_dict(config.model.architecture), dtype, device)
        bench.tell("second model", "seconds to make it", perf_counter() - began, config.model.name)
        settings = [*bench.scale.second, *bench.scale.data, *ROUNDS, *bench.overrides, f"model.path={folder}"]
        whole, killed = Path(scratch, "whole"), Path(scratch, "killed")

        began = perf_counter()
        finish([*settings, f"runs_dir={whole}"])
        bench.tell("two rounds", "seconds", perf_counter() - began, "by the command, uninterrupted")
        steps = kill_in_round_2([*settings, f"runs_dir={killed}"], killed)
        first = made(killed)
        began = perf_counter()
        finish([*settings, f"runs_dir={killed}"])
        beside = f"from the kill at step {steps} of round 2 to the end"
        bench.tell("the killed run", "seconds", perf_counter() - began, beside)
        bench.tell(
            "the killed run", "rounds trained again", float(made(killed) != first), "of the one that was finished"
        )
        compare(bench, only_run(whole), only_run(killed))


def command(settings: Sequence[str]) -> list[str]:
    """What a user would type."""
    return [sys.executable, "-m", "trace_cl", *settings]


def finish(settings: Sequence[str]) -> None:
    """Do a run. Raises RuntimeError with what it said last if it fails."""
    done = subprocess.run(command(settings), capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"the run failed: {said[-1]}")


def kill_in_round_2(settings: Sequence[str], runs: Path) -> int:
    """Begin a run and kill it, and whatever it has started, once its second round has made a step; gives how many it
    has made. Raises RuntimeError if it ended before."""
    with subprocess.Popen(
        command(settings), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as run:
        while not (steps := in_round_2(runs)):
            if run.poll() is not None:
                raise RuntimeError(f"the run that was to be killed ended by itself, with exit code {run.returncode}")
            time.sleep(0.02)
        os.killpg(run.pid, signal.SIGKILL)
    return steps


def in_round_2(runs: Path) -> int:
    """How many steps of its second round a run has written down."""
    lines = [line for file in runs.glob("*/*/*/seed*/train.jsonl") for line in file.read_text().splitlines(True)]
    return sum(json.loads(line)["round"] == 2 for line in lines if line.endswith("\n"))


def only_run(runs: Path) -> Path:
    """The folder of the one run under `runs`."""
    [folder] = runs.glob("*/*/*/seed*")
    return folder


def made(runs: Path) -> int:
    """When the first round's record was written, in nanoseconds."""
    return (only_run(runs) / "rounds" / "round1.json").stat().st_mtime_ns


def compare(bench: Bench, whole: Path, resumed: Path) -> None:
    """What the kill has changed: nothing on a CPU, rounding on a GPU, whose sums come in any order."""
    losses = [
        [json.loads(line)["loss"] for line in (folder / "train.jsonl").read_text().splitlines()]
        for folder in (whole, resumed)
    ]
    change = max(abs(one - other) / abs(one) for one, other in zip(*losses, strict=True))
    bench.tell("the killed run", "relative change of the losses", change, f"the most in {len(losses[0])} steps")
    one, other = (read_matrix(folder / "matrix.csv") for folder in (whole, resumed))
    points = float((one - other).abs().max().max())
    beside = f"points; the highest score is {one.max().max():.2f}"
    bench.tell("the killed run", "difference of the matrices", points, beside)


PARTS: dict[str, Part] = {"resume": resume}
