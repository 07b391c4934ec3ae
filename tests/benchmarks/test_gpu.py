"""The parts of `make bench-gpu` on a CPU, as small as can be: each measures, and one that fails stops no other."""

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import gpu
import gpu_answers
import gpu_resume
import gpu_training
import pytest
from gpu_bench import SMALL, Bench, Row, RowFile
from torch import OutOfMemoryError

from trace_cl.training.memory import Memory

TINIEST = replace(
    SMALL,
    model=[*SMALL.model, "model.architecture.hidden_size=32", "model.architecture.num_hidden_layers=2"],
    data=["benchmark=embedded", "benchmark.max_train=4", "benchmark.max_test=2"],
    product=64,
    global_batch=4,
    steps=2,
    answer_tokens=4,
    timed_tokens=3,
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    scale = replace(TINIEST, second=TINIEST.model)
    return Bench("part", scale, RowFile(tmp_path / "gpu.jsonl"), ["device=cpu", "benchmark.epochs=1"])


def value(bench: Bench, subject: str, quantity: str) -> float:
    """A figure that was told of."""
    found = bench.rows.find(subject, quantity)
    assert found is not None, [row for row in bench.rows.read() if row.subject == subject]
    return found


def test_every_part_has_a_budget_and_all_take_less_than_nine_minutes() -> None:
    for budgets in gpu.BUDGETS.values():
        assert budgets.keys() == gpu.parts().keys()
    assert sum(gpu.BUDGETS["large"].values()) < 540
    assert gpu.BUDGETS.keys() == gpu.SCALES.keys()


def test_methods_are_told_against_the_matrix_product_and_full_fine_tuning(bench: Bench) -> None:
    for part in gpu_training.PARTS.values():
        part(bench)
    for subject in ("full fine-tuning", "HFT", "LoRA", "GEM in the last round"):
        assert value(bench, subject, "tokens/s") > 0
        rate = next(
            row.beside for row in bench.rows.read() if (row.subject, row.quantity) == (subject, "utilisation %")
        )
        reached = float(rate.partition("; ")[2].partition(" TFLOP/s")[0])
        product = value(bench, "matrix product", "TFLOP/s")
        assert value(bench, subject, "utilisation %") == pytest.approx(100 * reached / product, rel=0.01)
    ratio = value(bench, "HFT", "seconds a step") / value(bench, "full fine-tuning", "seconds a step")
    assert value(bench, "HFT", "of full fine-tuning's time") == pytest.approx(ratio)


def test_where_there_is_no_room_a_shallower_model_stands_in(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients of GEM's seven memories of both layers are too many, those of one are not."""

    class Room:
        device = None
        largest = 0

        def holds(self, memory: Memory) -> bool:
            self.largest = max(self.largest, memory.strategy)
            return memory.strategy == 0 or memory.strategy < self.largest

    room = Room()
    monkeypatch.setattr(gpu_training, "measure", lambda *_: room)
    gpu_training.learning(bench, "GEM", ["strategy=gem"])
    rows = {(row.subject, row.quantity): row for row in bench.rows.read()}
    assert rows["GEM", "does not fit"].beside.startswith("2 layers need ")
    assert ("GEM", "tokens/s") not in rows
    ratio = value(bench, "GEM, 1 layers", "seconds a step") / value(
        bench, "full fine-tuning, 1 layers", "seconds a step"
    )
    assert value(bench, "GEM, 1 layers", "of full fine-tuning's time") == pytest.approx(ratio)


def test_a_setting_that_is_too_large_after_all_gives_way_to_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn: Callable[..., None] = gpu_training.learn

    def too_large(bench: Bench, subject: str, shallow: str, planned: gpu_training.Planned) -> None:
        if planned.tokens_per_batch > 4096:
            raise OutOfMemoryError
        learn(bench, subject, shallow, planned)

    monkeypatch.setattr(gpu_training, "learn", too_large)
    gpu_training.learning(bench, "full fine-tuning", [])
    told = [row.beside for row in bench.rows.read() if row.quantity == "out of memory"]
    assert ["16384" in told[0], "8192" in told[1]] == [True, True]
    [step] = [row.beside for row in bench.rows.read() if row.quantity == "seconds a step"]
    assert "micro-batches of 4096 tokens" in step


def test_scoring_is_told_task_by_task_and_in_all(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRACE's way takes 8 seconds for two prompts."""
    monkeypatch.setattr(gpu_answers, "traces_seconds", lambda *_: 8.0)
    gpu_answers.scoring(bench)
    speeds = [value(bench, f"scoring {task.name}", "examples/s") for task in bench.benchmark.tasks]
    times = [value(bench, f"scoring {task.name}", "times TRACE's way") for task in bench.benchmark.tasks]
    assert times == pytest.approx([4 * speed for speed in speeds])
    assert len(speeds) == 8
    whole = 4 * 8 / sum(1 / speed for speed in speeds)
    assert value(bench, "scoring", "times TRACE's way") == pytest.approx(whole)


def test_a_task_that_there_is_no_time_for_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is read before and after a task, which takes a minute; there are two and a half."""
    clock = iter([0.0, 0.0, 60.0, 60.0, 60.0, 120.0, *[120.0] * 6])
    monkeypatch.setattr(gpu_answers, "time", lambda: next(clock))
    monkeypatch.setattr(gpu_answers, "traces_seconds", lambda *_: 8.0)
    monkeypatch.setattr(gpu_answers, "own_seconds", lambda *_: (64, 4.0))
    gpu_answers.scoring(replace(bench, deadline=150.0))
    told = [row.quantity for row in bench.rows.read()]
    assert told == [*["examples/s", "times TRACE's way"] * 2, *["no time left"] * 6, "times TRACE's way"]
    assert bench.rows.read()[-1].beside == "over 2 tasks, as many examples of each"


def test_a_token_of_traces_way_costs_what_the_timed_ones_cost(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt takes 5 seconds with its first token, and each token after that 2."""
    monkeypatch.setattr(gpu_answers, "timed", lambda model, work: 5 + 2 * (work.keywords["tokens"] - 1))
    assert gpu_answers.traces_seconds(bench, None, []) == 5 + 2 * 511  # type: ignore[arg-type]


def test_in_fp32_nothing_changes_but_rounding(bench: Bench) -> None:
    gpu_answers.invariances(bench)
    for subject in ("tiny model", "random model"):
        assert value(bench, f"{subject}, float32", "differing answers") == 0
        assert value(bench, f"{subject}, float32", "relative change of the gradient") < 1e-5
        assert 1e-5 < value(bench, f"{subject}, bfloat16", "relative change of the gradient") < 0.1


RUN = """
import sys, time
from pathlib import Path
folder = Path(sys.argv[2].removeprefix("runs_dir="), "benchmark/model/method/seed1")
folder.mkdir(parents=True)
(folder / "train.jsonl").write_text('{"round": 1}\\n{"round": 2}\\n{"round": 2}\\n{"rou')
time.sleep(float(sys.argv[1]))
"""
"""Stands for a run: two steps of its second round, half of a line, and then nothing for so many seconds."""


def test_a_run_is_killed_in_its_second_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_resume, "command", lambda settings: [sys.executable, "-c", RUN, "60", *settings])
    assert gpu_resume.kill_in_round_2([f"runs_dir={tmp_path}"], tmp_path) == 2


def test_a_run_that_cannot_be_killed_is_no_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_resume, "command", lambda settings: [sys.executable, "-c", "raise SystemExit(2)"])
    with pytest.raises(RuntimeError, match="ended by itself, with exit code 2"):
        gpu_resume.kill_in_round_2([], tmp_path)
    monkeypatch.setattr(gpu_resume, "command", lambda settings: [sys.executable, "-c", "raise SystemExit('too large')"])
    with pytest.raises(RuntimeError, match="the run failed: too large"):
        gpu_resume.finish([])


def test_what_a_kill_has_changed_is_told(bench: Bench, tmp_path: Path) -> None:
    for name, losses, score in (("whole", (2.0, 4.0), 50.0), ("resumed", (2.0, 5.0), 47.5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text("".join(json.dumps({"loss": loss}) + "\n" for loss in losses))
        (tmp_path / name / "matrix.csv").write_text(f"round,A,B\n1,{score},\n2,50.0,50.0\n")
    gpu_resume.compare(bench, tmp_path / "whole", tmp_path / "resumed")
    assert value(bench, "the killed run", "relative change of the losses") == 0.25
    assert value(bench, "the killed run", "difference of the matrices") == 2.5


def test_without_data_a_part_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACE_ROOT", raising=False)
    assert gpu.do(replace(bench, part="full", scale=replace(bench.scale, data=[]))) == 1
    [row] = bench.rows.read()
    assert (row.part, row.quantity, row.value) == ("full", "failed", None)
    assert row.beside.startswith("benchmark=trace needs its data: set benchmark.root=DIR")


PART = """
import json, os, subprocess, sys, time
part, folder = sys.argv[2], sys.argv[4]
if part == "machine":
    row = {"part": part, "subject": "it", "quantity": "GB", "value": 139.0, "beside": os.environ["BENCH_SCALE"]}
    open(folder + "/gpu.jsonl", "a").write(json.dumps(row) + "\\n")
if part == "full":
    os.kill(os.getpid(), 11)
if part == "hft":
    child = subprocess.Popen(["sleep", "60"])
    open(folder + "/child", "w").write(str(child.pid))
    time.sleep(60)
"""
"""Stands for the parts: one measures, one crashes, one starts something and hangs."""


def test_a_part_that_crashes_or_hangs_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "part.py").write_text(PART)
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "part.py"))
    monkeypatch.setitem(gpu.BUDGETS, "small", {"machine": 20, "full": 20, "hft": 2})
    monkeypatch.setenv("BENCH_SCALE", "small")
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "out")])
    assert gpu.main() == 1
    whole = json.loads((tmp_path / "out" / "gpu.json").read_text())
    machine, full, hft = (Row(**row) for row in whole["rows"])
    assert (machine.value, machine.beside) == (139.0, "small")
    assert (full.part, full.quantity) == ("full", "failed")
    assert full.beside.startswith(f"it ended with -{signal.SIGSEGV.value}: ")
    assert (hft.part, hft.beside) == ("hft", "its 2 seconds were up")
    lines = (tmp_path / "out" / "gpu.md").read_text().splitlines()
    assert lines[2] == "| machine | it | GB | 139 | small |"
    assert lines[4] == "| hft | hft | failed | – | its 2 seconds were up |"
    child = int((tmp_path / "out" / "child").read_text())
    until = monotonic() + 10
    while runs(child):
        assert monotonic() < until, "what a part has started outlives it"
        sleep(0.01)


def runs(process: int) -> bool:
    """Whether a process does, and has not ended without anybody's asking yet how."""
    command = Path(f"/proc/{process}/cmdline")
    return command.exists() and command.read_text() != ""


@pytest.mark.parametrize(
    ("arguments", "scale", "sentence"),
    [
        (["--parts", "full,half"], "small", "--parts half is none of machine, full, hft"),
        ([], "medium", "BENCH_SCALE=medium is neither large nor small"),
        ([], "large", "PyTorch finds no GPU on this machine: set BENCH_SCALE=small"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: list[str], scale: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BENCH_SCALE", scale)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
    assert gpu.main() == 2
    assert sentence in capsys.readouterr().err
