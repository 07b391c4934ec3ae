"""A sweep: what becomes of its members, and what is said of them."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from trace_cl.__main__ import main
from trace_cl.build import build_strategy
from trace_cl.config import CONF_DIR
from trace_cl.errors import UserError
from trace_cl.identity import run_folder
from trace_cl.signals import Stopped

Sweep = Callable[..., int]
SCORES = {1: "1,80,\n2,40,60\n", 2: "1,80,\n2,60,64\n"}
"""Matrices by seed. OP 50 and 62, BWT −20 and −10, learned 70 and 72."""


def run(config: DictConfig) -> None:
    """Stands for a run: seed 1 and 2 leave a matrix, seed 3 is refused, 4 crashes, 5 is stopped by the user."""
    if config.seed == 3:
        raise UserError("the data is not there: put it there")
    if config.seed == 4:
        raise RuntimeError("out of memory")
    if config.seed == 5:
        raise Stopped(signal.SIGINT)
    folder = run_folder(config, build_strategy(config).name)
    folder.mkdir(parents=True)
    (folder / "matrix.csv").write_text("round,FOMC,Py150\n" + SCORES[config.seed])


@pytest.fixture
def sweep_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweep]:
    """Start a sweep of such runs; gives its exit code."""

    def start(*arguments: str) -> int:
        common = ["-m", f"runs_dir={tmp_path}", "benchmark.order=[FOMC,Py150]"]
        monkeypatch.setattr(sys, "argv", ["trace_cl", *common, *arguments])
        monkeypatch.setattr("trace_cl.launch.processes.launch", run)
        return main()

    yield start
    HydraConfig.instance().cfg = None


def test_the_table_is_of_this_sweep_alone(sweep_of: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "embedded" / "tiny" / "replay" / "seed1"
    other.mkdir(parents=True)
    (other / "matrix.csv").write_text("round,FOMC,Py150\n" + SCORES[1])
    assert sweep_of("strategy=gem,seqft", "seed=1,2") == 0
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert lines == [
        "| method | seeds | OP | BWT | learned | seconds | extra memory | task identity |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| seqft-order_FOMC+Py150 | 2 | 56.0 ± 8.5 | -15.0 ± 7.1 | 71.0 ± 1.4 |  |  |  |",
        "| gem-order_FOMC+Py150 | 2 | 56.0 ± 8.5 | -15.0 ± 7.1 | 71.0 ± 1.4 |  |  |  |",
    ]
    assert f"**{tmp_path}/embedded/tiny**" in printed


def test_a_failed_member_does_not_stop_the_others_and_is_listed_at_the_end(
    sweep_of: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep_of("seed=4,3,1") == 1
    printed = capsys.readouterr()
    assert "| seqft-order_FOMC+Py150 | 1 | 50.0 | -20.0 | 70.0 |" in printed.out
    [error] = tmp_path.glob(".sweeps/*/0/error.txt")
    assert 'raise RuntimeError("out of memory")' in error.read_text(), "the traceback is kept"
    setting = f"runs_dir={tmp_path} 'benchmark.order=[FOMC,Py150]'"
    assert printed.err.splitlines()[-7:] == [
        "refused, 1 of 3:",
        f"  python -m trace_cl {setting} seed=3",
        "    the data is not there: put it there",
        "",
        "failed, 1 of 3:",
        f"  python -m trace_cl {setting} seed=4",
        f"    RuntimeError: out of memory ({error})",
    ]


def test_the_exit_code_where_bad_input_is_all_that_failed(sweep_of: Sweep) -> None:
    assert sweep_of("seed=3,1") == 2


def test_hft_with_an_adapter_is_skipped_with_the_reason(sweep_of: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep_of("strategy=seqft,lora_seqft", "hft=true,false") == 0
    printed = capsys.readouterr()
    assert [line.split(" | ")[0] for line in printed.out.splitlines() if "70.0 |" in line] == [
        "| seqft+hft-order_FOMC+Py150",
        "| seqft-order_FOMC+Py150",
        "| lora_seqft-order_FOMC+Py150",
    ]
    skipped = printed.err.partition("skipped, 1 of 4:")[2]
    assert "strategy=lora_seqft hft=True" in skipped
    assert "it changes the architecture" in skipped


def test_a_complete_member_is_not_run_again(sweep_of: Sweep, tmp_path: Path) -> None:
    folder = tmp_path / "embedded" / "tiny" / "seqft-order_FOMC+Py150" / "seed4"
    folder.mkdir(parents=True)
    (folder / "matrix.csv").write_text("round,FOMC,Py150\n" + SCORES[1])
    assert sweep_of("seed=4,1") == 0, "seed 4 would crash"


def test_ctrl_c_ends_the_sweep(sweep_of: Sweep, tmp_path: Path) -> None:
    assert sweep_of("seed=5,1") == 130
    assert not (tmp_path / "embedded").exists()
    [outcome] = tmp_path.glob(".sweeps/*/*/outcome.json")
    assert json.loads(outcome.read_text())["state"] == "stopped"


def test_a_single_run_that_crashes_ends_with_1_and_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trace_cl", f"runs_dir={tmp_path}", "seed=4"])
    monkeypatch.setattr("trace_cl.launch.processes.launch", run)
    assert main() == 1
    assert capsys.readouterr().err.endswith("RuntimeError: out of memory\n")


def test_side_by_side_the_cores_are_divided(small_model: Path, small_root: Path, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "trace_cl", "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        *("strategy=seqft,lora_seqft", "hft=true", f"runs_dir={tmp_path}", f"model.path={small_model}", "device=cpu"),
        *("benchmark=trace", f"benchmark.root={small_root}", "benchmark.order=[FOMC]", "evaluation.zero_shot=false"),
    ]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "| seqft+hft-order_FOMC-device_cpu | 1 |" in done.stdout
    run = tmp_path / "trace" / "tiny" / "seqft+hft-order_FOMC-device_cpu" / "seed1"
    assert json.loads((run / "environment.json").read_text())["threads"] == max(1, len(os.sched_getaffinity(0)) // 2)
    assert "skipped, 1 of 2" in done.stderr
    [log] = tmp_path.glob(".sweeps/*/0/log.txt")
    assert "task \\ round" in log.read_text(), "what a member prints is in its log"
    assert "task \\ round" not in done.stdout


def test_the_command_alone_is_what_the_sweep_says(sweep_of: Sweep, tmp_path: Path) -> None:
    """A member's arguments, as they are listed, compose to that very member."""
    sweep_of("seed=1,2", "hft=true")
    outcomes = [json.loads(path.read_text()) for path in sorted(tmp_path.glob(".sweeps/*/*/outcome.json"))]
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        alone = [hydra.compose("config", shlex.split(outcome["command"])) for outcome in outcomes]
    assert [outcome["folder"] for outcome in outcomes] == [
        str(run_folder(config, build_strategy(config).name)) for config in alone
    ]
