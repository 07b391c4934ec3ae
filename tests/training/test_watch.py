"""A rank that dies ends the others; one that is only held up, or done, does not. Started by hand, as srun would."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trace_cl.errors import UserError
from trace_cl.training.ranks import own_device, port_of

distributed = pytest.mark.distributed

RANK = """
import sys, time, torch
from trace_cl.training import watch
watch.GRACE = 2
from trace_cl.training.ranks import join, leave
ranks = join(cuda=False)
print("met", flush=True)
if sys.argv[1] in (str(ranks.rank), 'both'):
    time.sleep(float(sys.argv[2]))
if sys.argv[3] == "together":
    ranks.sum(torch.ones(1))
leave(politely=sys.argv[4] == "politely")
print("done", flush=True)
"""
"""One of them comes late to where they part, and may have to meet the other there."""


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])


def start(ranks: int, late: int | str, by: float, *how: str, port: str | None = None) -> list[subprocess.Popen[str]]:
    port = port or free_port()
    here = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    here["PYTHONPATH"] = str(Path(__file__).parents[2])
    return [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(late), str(by), *how],
            env={**here, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]


def have_met(both: list[subprocess.Popen[str]]) -> None:
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "met\n"


@distributed
@pytest.mark.parametrize("dies", [0, 1])
def test_a_rank_that_dies_ends_the_other(dies: int) -> None:
    both = start(2, "both", 600, "together", "politely")
    have_met(both)
    both[dies].kill()
    began = time.monotonic()
    out, said = both[1 - dies].communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert (both[1 - dies].returncode, out) == (1, "")
    assert said.strip() == f"error: rank {dies} has died, and the run ends with it; the same command goes on"


@distributed
def test_a_rank_that_is_held_up_is_waited_for() -> None:
    """Five times as long as the others would still wait for a dead one."""
    both = start(2, 1, 0.5, "together", "politely")
    have_met(both)
    both[1].send_signal(signal.SIGSTOP)
    time.sleep(10)
    assert both[0].poll() is None
    both[1].send_signal(signal.SIGCONT)
    assert [process.communicate(timeout=60)[0] for process in both] == ["done\n"] * 2
    assert [process.returncode for process in both] == [0, 0]


@distributed
@pytest.mark.parametrize("late", [0, 1])
def test_a_rank_that_is_done_alarms_no_one(late: int) -> None:
    """And waits for the first, lest whoever started them takes its end for a sign to end that one."""
    both = start(2, late, 5, "apart", "politely")
    have_met(both)
    began = time.monotonic()
    assert both[1 - late].wait(timeout=60) == 0
    assert (time.monotonic() - began > 3) == (late == 0)
    assert [process.communicate(timeout=60) for process in both] == [("done\n", "")] * 2


@distributed
def test_a_rank_that_leaves_because_it_failed_ends_the_others() -> None:
    both = start(2, 1, 600, "apart", "impolitely")
    have_met(both)
    _, said = both[1].communicate(timeout=60)
    assert both[1].returncode == 1
    assert "rank 0 has died" in said


@distributed
def test_a_port_in_use_is_said_by_the_first_rank() -> None:
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as other:
        port = str(other.getsockname()[1])
        [first] = start(1, 0, 0, "apart", "politely", port=port)
        _, said = first.communicate(timeout=60)
    assert said.splitlines()[-1] == (
        f"trace_cl.errors.UserError: port {port}, at which the ranks are to meet, is in use on localhost: "
        "set MASTER_PORT to a free one"
    )


def test_steps_and_neighbouring_jobs_meet_at_ports_of_their_own() -> None:
    """Below the ports a Linux system hands out by itself."""
    ports = {port_of(job, step) for job in range(90_000, 90_100) for step in range(100)}
    assert len(ports) == 100 * 100
    assert 1024 < min(port_of(job, 0) for job in range(50_000)) <= max(port_of(job, 0) for job in range(50_000)) < 32768


def test_a_process_that_sees_one_gpu_takes_that() -> None:
    """`srun --gpus-per-task=1` shows each its own, as number 0."""
    assert [own_device(local, 8) for local in range(8)] == list(range(8))
    assert [own_device(local, 1) for local in range(8)] == [0] * 8
    with pytest.raises(UserError, match="process 4 of this machine has no GPU, of which there are 4"):
        own_device(4, 4)
