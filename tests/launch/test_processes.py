"""What a run of two processes makes of what the system asks: it is passed on, waited for, and followed once."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest

pytestmark = pytest.mark.distributed

HERE = Path(__file__).parent


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    began = monotonic()
    while not condition():
        assert monotonic() - began < seconds
        sleep(0.05)


class Parent:
    """A process that has started two ranks (`standing_in`), in a group of its own as a terminal would have it."""

    def __init__(self, folder: Path, meets: bool = True) -> None:
        self.folder = folder
        command = [sys.executable, str(HERE / "standing_in.py"), str(folder), "1" if meets else "2"]
        here = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}:{HERE.parents[1]}", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=here, start_new_session=True)
        wait_for(lambda: self.left("met" if meets else "started"))
        self.ranks = [psutil.Process(int((folder / f"started{rank}").read_text())) for rank in (0, 1)]

    def left(self, name: str) -> bool:
        """Whether both ranks left a file of that name."""
        return all((self.folder / f"{name}{rank}").exists() for rank in (0, 1))

    def end(self) -> tuple[int, str]:
        """Its exit code and what it said."""
        said = self.process.communicate(timeout=120)[1]
        return self.process.returncode, said

    def is_alone(self) -> bool:
        return not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in self.ranks)


def test_what_is_asked_is_passed_on_and_waited_for(tmp_path: Path) -> None:
    parent = Parent(tmp_path)
    parent.process.send_signal(signal.SIGUSR1)
    wait_for(lambda: parent.left("checkpoint"))
    parent.process.send_signal(signal.SIGTERM)
    assert parent.end() == (143, "")
    assert parent.left("put_by")


def test_one_request_that_reaches_parent_and_ranks_is_followed_once(tmp_path: Path) -> None:
    """As Slurm's does."""
    parent = Parent(tmp_path)
    for rank in parent.ranks:
        rank.send_signal(signal.SIGINT)
    os.killpg(parent.process.pid, signal.SIGINT)
    assert parent.end() == (130, "")
    assert parent.left("put_by")


def test_a_second_request_is_not_waited_with(tmp_path: Path) -> None:
    parent = Parent(tmp_path)
    parent.process.send_signal(signal.SIGINT)
    sleep(0.5)
    parent.process.send_signal(signal.SIGINT)
    code, said = parent.end()
    assert (code, said.split()) == (130, ["interrupted"])
    wait_for(parent.is_alone, seconds=10)
    assert not parent.left("put_by")


def test_ranks_that_wait_for_each_other_end_at_once(tmp_path: Path) -> None:
    """The first is in C++, where Python is told of no signal."""
    parent = Parent(tmp_path, meets=False)
    sleep(1)
    os.killpg(parent.process.pid, signal.SIGINT)
    code, said = parent.end()
    assert (code, said.split()) == (130, ["interrupted"])


def test_the_ranks_end_with_their_parent(tmp_path: Path) -> None:
    parent = Parent(tmp_path)
    parent.process.kill()
    wait_for(parent.is_alone, seconds=10)
