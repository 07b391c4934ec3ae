"""Two ranks over gloo against one device: the same matrix, the same weights, whatever is spread over them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import ranks
import torch
from omegaconf import DictConfig, OmegaConf
from ranks import (
    eight_rounds_of_each_stage,
    on_two_ranks,
    optimizers_bytes_of_each_stage,
    start_all,
    start_and_be_refused,
    start_and_end_in_round_2,
    use_every_word_under_each_stage,
)
from safetensors.torch import load_file
from support import TASKS, Killed, compose, everything, killed_at, only_run, results

from trace_cl.config import as_dict
from trace_cl.launch.processes import launch
from trace_cl.run import start
from trace_cl.tiny import CHECKPOINT
from trace_cl.training.engine import Optimization
from trace_cl.training.layout import processes
from trace_cl.training.model import load_tokenizer
from trace_cl.training.ranks import Ranks
from trace_cl.training.torch_engine import TorchEngine, TorchLearner

pytestmark = pytest.mark.distributed

METHODS = {
    "seqft": (),
    "seqft+hft": ("hft=true",),
    "seqft+hft general": (
        "hft=true",
        "benchmark.general=trace_cl.data.embedded.general.generate",
        "benchmark.abilities=trace_cl.data.embedded.abilities.generate",
    ),
    "gem": ("strategy=gem",),
    "gem+hft": ("strategy=gem", "hft=true"),
    "gem streamed": ("strategy=gem", "strategy.memory_gradients=streamed"),
    "gem+hft streamed": ("strategy=gem", "strategy.memory_gradients=streamed", "hft=true"),
    "replay": ("strategy=replay",),
    "replay+hft": ("strategy=replay", "hft=true"),
    "lora_seqft": ("strategy=lora_seqft",),
    "gem last_batch": ("strategy=gem", "strategy.memory=last_batch"),
    "ewc": ("strategy=ewc", "strategy.strength=1", "strategy.fisher_examples=5"),
    "ewc+hft": ("strategy=ewc", "strategy.strength=1", "strategy.fisher_examples=5", "hft=true"),
    "lwf": ("strategy=lwf",),
    "progressive_prompts": ("strategy=progressive_prompts",),
    "joint": ("strategy=joint",),
    "merging": ("strategy._target_=ranks.Merging",),
    "single_task": ("strategy=single_task",),
    "single_task+hft": ("strategy=single_task", "hft=true"),
    "icl": ("strategy=icl",),
    "l2sp": ("strategy=l2sp",),
    "l2sp+hft": ("strategy=l2sp", "strategy.anchor=round", "hft=true"),
    "mixout": ("strategy=mixout",),
    "mixout+hft": ("strategy=mixout", "strategy.mask=weight", "hft=true"),
    # (TIES and a difference of rounding: a number just kept or just trimmed.)
    "merge": ("strategy=merge", "strategy.how=dare", "strategy.density=0.7"),
    "merge+hft": ("strategy=merge", "strategy.other=base", "hft=true"),
    "agem": ("strategy=agem",),
    "agem+hft": ("strategy=agem", "hft=true"),
    "ogd": ("strategy=ogd", "strategy.examples=4", "training.learning_rate=0.001"),
    "ogd+hft": ("strategy=ogd", "strategy.examples=4", "hft=true"),
    "der": ("strategy=der", "strategy.memory_size=5", "strategy.memory_batch=3", "strategy.top_k=5"),
    "mbpa": ("strategy=mbpa", "strategy.steps=2", "strategy.neighbours=3", "strategy.ratio=0.2"),
    "p_tuning": ("strategy=p_tuning", "strategy.prefix_tokens=3"),
    "l2p": ("strategy=l2p", "strategy.prompt_tokens=2"),
    "lfpt5": ("strategy=lfpt5", "strategy._target_=protocol.Babbling", "strategy.samples=4"),
    "o_lora": ("strategy=o_lora", "strategy.norm_strength=0.01"),
    "tree_lora": ("strategy=tree_lora",),
    "qlora": ("strategy=qlora", "strategy.r=4", "model.path=null"),
}
"""A directory's name, with what tells variants of it apart, and what it is asked for by."""

PUT_BY = "checkpoint.every_steps=3"

HALF = {
    0: ("gem",),
    2: (
        *("seqft", "gem+hft", "ewc", "mixout+hft", "ogd+hft", "der", "lfpt5"),
        *("qlora", "seqft+hft general"),
    ),
    3: (
        *("seqft+hft", "replay+hft", "lwf", "merge+hft", "agem", "mbpa", "o_lora"),
        *("progressive_prompts", "p_tuning"),
    ),
}
"""What is tried each time; the whole grid is `make test-grid`."""

REFUSED = {("qlora", 3)}


@dataclass(frozen=True)
class Job:
    """A run on two ranks."""

    method: str
    settings: tuple[str, ...]

    def folder(self, runs: Path) -> Path:
        """Where it lies, once it is made."""
        return folder_of(self.method, runs / str(self))

    def __str__(self) -> str:
        return "-".join([self.method, *self.settings]).replace("engine.", "").replace("=", "_")


grid = [
    pytest.param(
        Job(method, (f"engine.zero_stage={stage}",)),
        marks=() if method in tried else pytest.mark.whole_grid,
        id=f"{method}, stage {stage}",
    )
    for stage, tried in HALF.items()
    for method in METHODS
    if (method, stage) not in REFUSED
]
still_spread = [
    pytest.param(Job(method, ("engine.zero_stage=3", "engine.gather=false")), marks=marks, id=method)
    for method, marks in (
        ("seqft+hft general", ()),
        ("lora_seqft", ()),
        ("ewc+hft", pytest.mark.whole_grid),
        ("progressive_prompts", pytest.mark.whole_grid),
        ("p_tuning", pytest.mark.whole_grid),
        ("l2p", pytest.mark.whole_grid),
        ("merging", pytest.mark.whole_grid),
        ("der", pytest.mark.whole_grid),
        ("single_task", pytest.mark.whole_grid),
    )
]
in_bf16 = [Job("gem+hft", (f"engine.zero_stage={stage}", "model.dtype=bf16")) for stage in (0, 2, 3)]
saving_memory = [
    Job("seqft", ("engine.zero_stage=3", f"engine.{how}=true"))
    for how in ("gradient_checkpointing", "offload_optimizer")
]


def folder_of(method: str, runs: Path) -> Path:
    """The directory of the one run of the method; its settings are named behind it."""
    [folder] = (runs / "trace" / "tiny").glob(f"{method.partition(' ')[0]}-*/seed1")
    return folder


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
        start(configure(runs / method, "engine=torch", *METHODS[method]))
        return folder_of(method, runs / method)

    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """What is learned, and what a strategy keeps."""
    files = (folder / "checkpoint").glob("*.safetensors")
    return {f"{file.name}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def recorded(folder: Path, figure: str) -> list[float]:
    """A figure of every optimizer step that has it."""
    trained = folder / "train.jsonl"
    steps = [json.loads(line) for line in trained.read_text().splitlines()] if trained.exists() else []
    return [step[figure] for step in steps if figure in step]


def losses(folder: Path) -> list[float]:
    """What was measured beside the scores, of the base model and after every round: losses, and general abilities."""
    records = [json.loads((folder / "rounds" / f"round{t}.json").read_text()) for t in range(len(TASKS) + 1)]
    general = [record["general_loss"] for record in records if "general_loss" in record]
    beside = (record.get(key, {}) for record in records for key in ("reference_loss", "abilities"))
    return [*general, *(value for values in beside for value in values.values())]


def assert_same_run(folder: Path, reference: Path) -> None:
    assert (folder / "matrix.csv").read_text() == (reference / "matrix.csv").read_text()
    # The norm is that before clipping, which would hide a gradient twice too large.
    for figure in ("loss", "gradient_norm", "penalty", "orthogonality", "norms", "gradient_distance"):
        assert recorded(folder, figure) == pytest.approx(recorded(reference, figure), rel=1e-3), figure
    # A difference of what is almost alike.
    assert recorded(folder, "distillation") == pytest.approx(recorded(reference, "distillation"), rel=0.01, abs=1e-5)
    assert losses(folder) == pytest.approx(losses(reference), rel=1e-4)
    ours, theirs = weights(folder), weights(reference)
    assert ours.keys() == theirs.keys()
    # Weights are smaller than one; EWC's Fisher information, which lies among them, is not.
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="session")
def on_both_ranks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, configure: Configure
) -> Callable[[Job], Path]:
    """The runs the collected tests ask for, made in one go: to start two ranks takes longer than most of them."""
    runs = tmp_path_factory.mktemp("two")
    jobs = [item.callspec.params["job"] for item in request.session.items if "on_both_ranks" in item.fixturenames]  # type: ignore[attr-defined]
    on_two_ranks(
        start_all,
        [as_dict(configure(runs / str(job), "engine=deepspeed", *job.settings, *METHODS[job.method])) for job in jobs],
    )
    return lambda job: job.folder(runs)


@pytest.mark.parametrize("job", [*grid, *(pytest.param(job, id=str(job)) for job in saving_memory)])
def test_two_ranks_give_what_one_device_gives(
    job: Job, on_both_ranks: Callable[[Job], Path], on_one_device: Callable[[str], Path]
) -> None:
    assert_same_run(on_both_ranks(job), on_one_device(job.method))


@pytest.mark.parametrize("job", still_spread)
def test_weights_that_stay_spread_between_rounds_answer_alike(
    job: Job, on_both_ranks: Callable[[Job], Path], on_one_device: Callable[[str], Path]
) -> None:
    assert_same_run(on_both_ranks(job), on_one_device(job.method))
    assert results(on_both_ranks(job)) == results(on_one_device(job.method))


@pytest.mark.parametrize("job", in_bf16, ids=str)
def test_bf16_learns_as_on_one_device(job: Job, on_both_ranks: Callable[[Job], Path], configure: Configure) -> None:
    """Where the optimizer holds what learns in fp32, and where the parameters themselves are held so: the same losses,
    to what bf16 can tell apart."""
    there = on_both_ranks(job)
    start(configure(there.parents[4] / "one", "engine=torch", "model.dtype=bf16", *METHODS[job.method]))
    here = folder_of(job.method, there.parents[4] / "one")
    ours, theirs = recorded(there, "loss"), recorded(here, "loss")
    assert theirs[-1] < theirs[0] - 1
    assert ours == pytest.approx(theirs, rel=0.01)


def test_a_run_goes_on_on_another_number_of_ranks(
    tmp_path: Path, configure: Configure, on_one_device: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    two, one = ("engine=deepspeed", "engine.zero_stage=3"), ("engine=torch",)
    methods = ("gem+hft", "ewc")  # who keep something of each task
    for method in methods:
        with monkeypatch.context() as patch:
            patch.setattr(TorchLearner, "step", killed_at(TorchLearner.step, 10))
            with pytest.raises(Killed):
                start(configure(tmp_path / "up", PUT_BY, *one, *METHODS[method]))
    on_two_ranks(
        start_and_end_in_round_2,
        [as_dict(configure(tmp_path / "down", PUT_BY, *two, *METHODS[method])) for method in methods],
        [as_dict(configure(tmp_path / "up", *two, *METHODS[method])) for method in methods],
    )
    for method in methods:
        assert (folder_of(method, tmp_path / "down") / "halfway" / "exp_avg-00000.safetensors").exists()
        start(configure(tmp_path / "down", *one, *METHODS[method]))
        for way in ("down", "up"):
            assert_same_run(folder_of(method, tmp_path / way), on_one_device(method))


def test_killed_inside_a_round_two_ranks_go_on_to_the_same_bytes(tmp_path: Path, configure: Configure) -> None:
    jobs = [
        Job("gem+hft", ("engine.zero_stage=0",)),
        Job("gem last_batch", ("engine.zero_stage=2",)),
        Job("seqft+hft", ("engine.zero_stage=2", "model.dtype=bf16")),
        Job("seqft", ("engine.zero_stage=3", "engine.offload_optimizer=true")),
        Job("ewc+hft", ("engine.zero_stage=3", "engine.gather=false")),
    ]

    def configs(runs: Path) -> list[dict[str, object]]:
        return [
            as_dict(configure(runs / str(job), PUT_BY, "engine=deepspeed", *job.settings, *METHODS[job.method]))
            for job in jobs
        ]

    on_two_ranks(start_and_end_in_round_2, configs(tmp_path / "killed"), configs(tmp_path / "whole"))
    for job in jobs:
        assert (job.folder(tmp_path / "killed") / "halfway" / "exp_avg-00000.safetensors").exists()
    on_two_ranks(start_all, configs(tmp_path / "killed"))
    for job in jobs:
        assert everything(job.folder(tmp_path / "killed")) == everything(job.folder(tmp_path / "whole")), job


def test_a_learner_means_the_same_by_its_words(tmp_path: Path) -> None:
    """All that it lends a strategy, on two ranks under each stage and on one device."""
    on_two_ranks(use_every_word_under_each_stage, tmp_path)
    tokenizer = load_tokenizer(str(CHECKPOINT))
    for dtype, rtol, atol in ((torch.float32, 1e-4, 2e-6), (torch.bfloat16, 0.1, 5e-3)):
        model = ranks.odd_model(tokenizer, dtype)
        one = TorchEngine(Optimization(learning_rate=1e-3, eps=1e-4), torch.device("cpu"), 4096)
        expected = ranks.use_every_word(one, model, Ranks(), tokenizer)
        assert len(set(expected["answers"][0])) > 1
        for stage in (0, 2, 3):
            noted = torch.load(tmp_path / f"{dtype} {stage}")
            torch.testing.assert_close(noted["at first"], expected["at first"], rtol=0, atol=0)
            published = {name: noted["at last"][name].float() for name in noted["merged"]}
            rounded = {name: weight.to(dtype).float() for name, weight in noted["merged"].items()}
            torch.testing.assert_close(published, rounded, rtol=0, atol=0)
            assert noted.keys() == expected.keys()
            for what in noted.keys() - {"answers"}:
                torch.testing.assert_close(noted[what], expected[what], rtol=rtol, atol=atol)
            if dtype == torch.float32:
                assert noted["answers"] == expected["answers"]


def test_eight_rounds_leave_nothing_behind(tmp_path: Path) -> None:
    on_two_ranks(eight_rounds_of_each_stage, tmp_path)
    for rank in (0, 1):
        for stage, live in json.loads((tmp_path / f"rank{rank}").read_text()).items():
            assert len(live) == 8
            # The threads that pass gradients on may hold the last ones a moment longer, in any single round.
            assert min(live[5:]) <= 1.02 * min(live[:2]), stage


def test_half_of_the_layers_needs_half_of_the_optimizers_state(tmp_path: Path) -> None:
    """AdamW's two moments, counted on both ranks: under HFT without those of the layers' frozen half."""
    on_two_ranks(optimizers_bytes_of_each_stage, tmp_path)
    noted = [json.loads((tmp_path / f"rank{rank}").read_text()) for rank in (0, 1)]
    model = ranks.model_of()
    everything = sum(p.numel() for p in model.parameters())
    in_layers = sum(p.numel() for p in model.get_decoder().layers.parameters())
    for stage in ("0", "2", "3"):
        full, half = (sum(rank[stage][method] for rank in noted) for method in ("FFT", "HFT"))
        copies = 2 if stage == "0" else 1  # stage 0 deals nothing out
        assert full == pytest.approx(copies * 2 * 4 * everything, rel=1e-3)
        assert full - half == pytest.approx(copies * 2 * 4 * in_layers / 2, rel=1e-3)


def test_the_run_ends_with_a_rank_and_goes_on_afterwards(tmp_path: Path, small_root: Path, small_model: Path) -> None:
    """By the very command a user types: one of two ranks is killed in the middle of the second round."""
    command = [sys.executable, "-m", "trace_cl", "engine=deepspeed", "engine.processes=2", f"model.path={small_model}"]
    command += ["benchmark=trace", f"benchmark.root={small_root}", f"benchmark.order=[{','.join(TASKS)}]"]
    command += ["training.global_batch=2", "benchmark.tasks={FOMC:{epochs:20}}", f"runs_dir={tmp_path}"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while run.poll() is None and not any('"round": 2' in steps.read_text() for steps in tmp_path.rglob("train.jsonl")):
        time.sleep(0.1)
    folder = only_run(tmp_path)
    children = psutil.Process(run.pid).children()
    both = [child for child in children if "be_a_rank" in " ".join(child.cmdline())]
    assert len(both) == 2
    os.kill(both[1].pid, signal.SIGKILL)
    began = time.monotonic()
    _, said = run.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert run.returncode == 1
    assert said.count("SIGKILL") == 1
    assert "Traceback" not in said
    assert not any(process.is_running() for process in both)
    assert len((folder / "matrix.csv").read_text().splitlines()) == 2

    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len((folder / "matrix.csv").read_text().splitlines()) == 4
    assert again.stdout.count("OP ") == 2  # one table after each of the two rounds left
    assert again.stderr.count("data: FOMC") <= 1


def test_the_ranks_that_slurm_starts_find_each_other(
    tmp_path: Path, configure: Configure, on_one_device: Callable[[str], Path]
) -> None:
    """Two processes in the surroundings that srun makes, where `scontrol` tells the first node's name."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text("#!/bin/sh\necho localhost\n")
    scontrol.chmod(0o755)
    saved = tmp_path / "config.yaml"
    OmegaConf.save(configure(tmp_path / "runs"), saved)
    program = "import sys; from omegaconf import OmegaConf; from trace_cl.launch.processes import launch; "
    command = [sys.executable, "-c", program + "launch(OmegaConf.load(sys.argv[1]))", str(saved)]
    slurm = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_JOB_ID": str(os.getpid())}
    slurm["SLURM_STEP_ID"] = "0"
    here = {**os.environ, **slurm, "PATH": f"{scontrol.parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            command,
            env={**here, "SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0].count("OP ") == 3
    assert said[1] == ("", "")
    assert_same_run(only_run(tmp_path / "runs"), on_one_device("seqft"))


def test_one_process_does_one_run_after_another(tmp_path: Path, configure: Configure) -> None:
    """As a sweep's: the second finds nothing left of the first one's groups."""
    for seed in (1, 2):
        launch(configure(tmp_path, "engine=deepspeed", f"seed={seed}", "benchmark.order=[FOMC]"))
        [matrix] = tmp_path.glob(f"*/*/*/seed{seed}/matrix.csv")
        assert len(matrix.read_text().splitlines()) == 2


def command_on_two_ranks(*overrides: str) -> subprocess.CompletedProcess[str]:
    """What a user types, its strategies looked for in the tests too."""
    command = [sys.executable, "-m", "trace_cl", "engine=deepspeed", "engine.processes=2", *overrides]
    here = {**os.environ, "PYTHONPATH": str(Path(ranks.__file__).parent)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=here)


def test_a_rank_that_fails_is_quoted_once(tmp_path: Path, small_root: Path, small_model: Path) -> None:
    small = (f"model.path={small_model}", "benchmark=trace", f"benchmark.root={small_root}", f"runs_dir={tmp_path}")
    failed = command_on_two_ranks(*small, "strategy._target_=ranks.FailsOnTheSecondRank")
    assert failed.returncode == 1
    assert failed.stderr.count("Traceback") == 1
    assert "rank 1:" in failed.stderr
    assert "RuntimeError: no room left" in failed.stderr

    refused = command_on_two_ranks(*small, "benchmark.root=/nowhere", "seed=2")
    assert refused.returncode == 2
    assert refused.stderr.count("error:") == 1
    assert "/nowhere" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_two_ranks_name_the_rows_of_a_loss_that_is_not_finite(tmp_path: Path, configure: Configure) -> None:
    settings = ("engine=deepspeed", "strategy._target_=ranks.SickRow", "training.global_batch=12")
    folders = {stage: tmp_path / f"stage {stage}" for stage in (0, 3)}
    on_two_ranks(
        start_and_be_refused,
        [as_dict(configure(folder, *settings, f"engine.zero_stage={stage}")) for stage, folder in folders.items()],
        "the loss is nan in round 1 (C-STANCE), step 1, on C-STANCE 3 (see failures/round1-step1.json",
    )
    for folder in folders.values():
        record = json.loads((only_run(folder) / "failures" / "round1-step1.json").read_text())
        assert sorted(row["row"] for row in record["rows"]) == list(range(12))
        assert [row["row"] for row in record["rows"] if row["loss"] == "nan"] == [3]
        assert all(0 < row["loss"] < 20 for row in record["rows"] if row["row"] != 3)


def test_a_rank_that_runs_out_of_memory_names_the_key(tmp_path: Path, small_root: Path, small_model: Path) -> None:
    small = (f"model.path={small_model}", "benchmark=trace", f"benchmark.root={small_root}", f"runs_dir={tmp_path}")
    failed = command_on_two_ranks(*small, "strategy._target_=ranks.TooLargeForTheSecondRank")
    assert failed.returncode == 2, failed.stderr
    assert failed.stderr.count("error:") == 1
    assert "tokens: set training.tokens_per_batch lower" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_how_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes(compose("device=cpu").engine, "cpu") == 1
    assert processes(compose("device=cpu", "engine.processes=2").engine, "cpu") == 2
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert processes(compose().engine, "auto") == 8
    assert processes(compose("engine=torch").engine, "auto") == 1
