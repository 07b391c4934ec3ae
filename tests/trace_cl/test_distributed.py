"""Two ranks over gloo against one device: the same matrix, the same weights, whatever is spread over them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from omegaconf import DictConfig
from ranks import eight_rounds, on_two_ranks, start_all, start_and_die_after_the_first_round
from safetensors.torch import load_file
from support import TASKS, Killed, compose, killed_after_writing, results
from torch.multiprocessing.spawn import ProcessRaisedException

from trace_cl.config import as_dict
from trace_cl.engines import processes
from trace_cl.journal import Journal
from trace_cl.run import start

METHODS = {
    "seqft": (),
    "seqft+hft": ("hft=true",),
    "gem": ("strategy=gem",),
    "gem+hft": ("strategy=gem", "hft=true"),
    "replay": ("strategy=replay",),
    "replay+hft": ("strategy=replay", "hft=true"),
    "lora_seqft": ("strategy=lora_seqft", "strategy.dropout=0"),
}
STAGES = (0, 2, 3)
HALF = {0: ("seqft+hft", "gem", "lora_seqft"), 2: ("seqft", "gem+hft", "replay"), 3: ("seqft+hft", "gem", "replay+hft")}
"""What is tried each time; the whole grid is `make test-distributed`."""

grid = [
    pytest.param(stage, methods, marks=marks, id=f"stage {stage}, {name}")
    for stage in STAGES
    for name, methods, marks in (
        ("half of the methods", HALF[stage], ()),
        ("the other half", tuple(m for m in METHODS if m not in HALF[stage]), (pytest.mark.whole_grid,)),
    )
]

Configure = Callable[..., DictConfig]


@pytest.fixture(scope="session")
def configure(small_model: Path, small_root: Path) -> Configure:
    """A run of three rounds on the small benchmark, at a rate at which noise stays noise."""

    def configured(runs_dir: Path, *overrides: str) -> DictConfig:
        return compose(
            "benchmark=trace",
            f"benchmark.root={small_root}",
            f"benchmark.order=[{','.join(TASKS)}]",
            "benchmark.tasks={C-STANCE:{epochs:2},FOMC:{epochs:2},MeetingBank:{epochs:2,answer_tokens:6}}",
            f"model.path={small_model}",
            "training.global_batch=5",
            "training.learning_rate=0.003",
            "training.eps=1e-4",
            f"runs_dir={runs_dir}",
            *overrides,
        )

    return configured


@pytest.fixture(scope="session")
def on_one_device(tmp_path_factory: pytest.TempPathFactory, configure: Configure) -> Callable[[str], Path]:
    """The same runs by engine=torch in one process, each made once."""
    runs = tmp_path_factory.mktemp("one")

    def folder(method: str) -> Path:
        start(configure(runs, "engine=torch", *METHODS[method]))
        return runs / "trace" / "tiny" / method / "seed1"

    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    [file] = (folder / "checkpoint").glob("*model.safetensors")
    return load_file(file)


def assert_same_run(folder: Path, reference: Path) -> None:
    assert (folder / "matrix.csv").read_text() == (reference / "matrix.csv").read_text()
    assert (folder / "train.jsonl").read_text().count("\n") == (reference / "train.jsonl").read_text().count("\n")
    ours, theirs = weights(folder), weights(reference)
    assert ours.keys() == theirs.keys()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("stage", "methods"), grid)
def test_two_ranks_give_what_one_device_gives(
    stage: int, methods: tuple[str, ...], tmp_path: Path, configure: Configure, on_one_device: Callable[[str], Path]
) -> None:
    spread = ("engine=deepspeed", f"engine.zero_stage={stage}")
    on_two_ranks(start_all, [as_dict(configure(tmp_path, *spread, *METHODS[method])) for method in methods])
    for method in methods:
        assert_same_run(tmp_path / "trace" / "tiny" / method / "seed1", on_one_device(method))


def test_weights_that_stay_spread_between_rounds_answer_alike(
    tmp_path: Path, configure: Configure, on_one_device: Callable[[str], Path]
) -> None:
    spread = ("engine=deepspeed", "engine.zero_stage=3", "engine.gather=false")
    methods = ("seqft+hft", "lora_seqft")
    on_two_ranks(start_all, [as_dict(configure(tmp_path, *spread, *METHODS[method])) for method in methods])
    for method in methods:
        folder = tmp_path / "trace" / "tiny" / method / "seed1"
        assert_same_run(folder, on_one_device(method))
        assert results(folder) == results(on_one_device(method))


@pytest.mark.parametrize("settings", ["engine.gradient_checkpointing=true", "engine.offload_optimizer=true"])
def test_what_saves_memory_changes_nothing(
    settings: str, tmp_path: Path, configure: Configure, on_one_device: Callable[[str], Path]
) -> None:
    on_two_ranks(start_all, [as_dict(configure(tmp_path, "engine=deepspeed", "engine.zero_stage=3", settings))])
    assert_same_run(tmp_path / "trace" / "tiny" / "seqft" / "seed1", on_one_device("seqft"))


def test_a_run_goes_on_on_another_number_of_ranks(
    tmp_path: Path, configure: Configure, on_one_device: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    two = ("engine=deepspeed", "engine.zero_stage=3", *METHODS["gem+hft"])
    with pytest.raises(ProcessRaisedException, match="Killed"):
        on_two_ranks(start_and_die_after_the_first_round, as_dict(configure(tmp_path / "down", *two)))
    start(configure(tmp_path / "down", "engine=torch", *METHODS["gem+hft"]))
    assert_same_run(tmp_path / "down" / "trace" / "tiny" / "gem+hft" / "seed1", on_one_device("gem+hft"))

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "finish_round", killed_after_writing(Journal.finish_round))
        with pytest.raises(Killed):
            start(configure(tmp_path / "up", "engine=torch", *METHODS["gem+hft"]))
    on_two_ranks(start_all, [as_dict(configure(tmp_path / "up", *two))])
    assert_same_run(tmp_path / "up" / "trace" / "tiny" / "gem+hft" / "seed1", on_one_device("gem+hft"))


@pytest.mark.parametrize(
    ("stage", "settings"), [(0, {}), (2, {}), (3, {}), (3, {"gather": False})], ids=["0", "2", "3", "3, spread"]
)
def test_eight_rounds_leave_nothing_behind(stage: int, settings: dict[str, bool], tmp_path: Path) -> None:
    on_two_ranks(eight_rounds, stage, settings, tmp_path)
    for rank in (0, 1):
        after = [int(line) for line in (tmp_path / f"rank{rank}").read_text().splitlines()]
        assert after[7] <= 1.02 * after[1]


def test_the_run_ends_with_a_rank_and_goes_on_afterwards(tmp_path: Path, small_root: Path, small_model: Path) -> None:
    """By the very command a user types: one of two ranks is killed in the middle of the second round."""
    command = [sys.executable, "-m", "trace_cl", "engine=deepspeed", "engine.processes=2", f"model.path={small_model}"]
    command += ["benchmark=trace", f"benchmark.root={small_root}", f"benchmark.order=[{','.join(TASKS)}]"]
    command += ["training.global_batch=2", "benchmark.tasks={FOMC:{epochs:50}}", f"runs_dir={tmp_path}"]
    folder = tmp_path / "trace" / "tiny" / "seqft" / "seed1"
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    steps = folder / "train.jsonl"
    while run.poll() is None and not (steps.exists() and '"round": 2' in steps.read_text()):
        time.sleep(0.1)
    ranks = [child for child in psutil.Process(run.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(ranks) == 2
    os.kill(ranks[1].pid, signal.SIGKILL)
    began = time.monotonic()
    _, said = run.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert run.returncode == 1
    assert said.count("SIGKILL") == 1
    assert "Traceback" not in said
    assert not any(rank.is_running() for rank in ranks)
    assert len((folder / "matrix.csv").read_text().splitlines()) == 2

    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len((folder / "matrix.csv").read_text().splitlines()) == 4
    assert again.stdout.count("OP ") == 2  # one table after each of the two rounds left
    assert again.stderr.count("data: FOMC") <= 1


def test_how_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes(compose("device=cpu").engine, "cpu") == 1
    assert processes(compose("device=cpu", "engine.processes=2").engine, "cpu") == 2
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert processes(compose().engine, "auto") == 8
    assert processes(compose("engine=torch").engine, "auto") == 1
