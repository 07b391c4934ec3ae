"""The server that runs are forked from, and the runs that nothing happened to."""

import multiprocessing
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from crash.harness import Reference, Runs, undisturbed
from support import PRELOADED

TASKS = ("C-STANCE", "FOMC", "MeetingBank")


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library by which a call of a run goes wrong."""
    compiler = shutil.which("cc") or pytest.skip("no C compiler (cc): nothing can be made to go wrong without one")
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture(scope="session")
def runs(faults: Path, small_model: Path, small_root: Path) -> Runs:
    """Runs of three tasks in two seconds each."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(list(PRELOADED))
    with pytest.MonkeyPatch.context() as here:
        # One thread: a process with more cannot be forked safely; and two sums of the same numbers are the same.
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            here.setenv(name, "1")
        here.setenv("TOKENIZERS_PARALLELISM", "false")
        here.setenv("LD_PRELOAD", str(faults))
        for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
            here.delenv(name, raising=False)
        begun = server.Process(target=os.getpid)
        begun.start()
        begun.join()
    return Runs(
        server,
        faults,
        (
            "benchmark=trace",
            f"benchmark.root={small_root}",
            f"benchmark.order=[{','.join(TASKS)}]",
            "benchmark.tasks={C-STANCE:{epochs:2},FOMC:{epochs:1},MeetingBank:{epochs:1,answer_tokens:6}}",
            f"model.path={small_model}",
            "training.global_batch=5",
            "training.learning_rate=0.01",
        ),
    )


@pytest.fixture(scope="session")
def reference(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Reference]:
    """The run of these settings that nothing happened to, made once."""
    made: dict[tuple[object, ...], Reference] = {}

    def run(*overrides: str, ranks: int = 1) -> Reference:
        asked = (*overrides, ranks)
        if asked not in made:
            made[asked] = undisturbed(runs, tmp_path_factory.mktemp("reference"), *overrides, ranks=ranks)
        return made[asked]

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the runs were about when they were killed."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    counted = Counter(value for report in reports for name, value in report.user_properties if name == "killed while")
    if counted:
        terminalreporter.write_line("killed while " + ", ".join(f"{what}: {n}" for what, n in counted.most_common()))
