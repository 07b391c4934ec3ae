"""How much memory there is, read from what the system says."""

import os
from pathlib import Path

import pytest
import torch

from trace_cl.training import free_memory
from trace_cl.training.free_memory import FreeMemory, _limits, measure
from trace_cl.training.memory import Memory
from trace_cl.training.ranks import Ranks


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_a_containers_limit_counts_wherever_it_is_set(tmp_path: Path) -> None:
    """Of both versions of control groups, and of the groups that a group is in: Slurm limits the job, not the step."""
    groups = tmp_path / "sys/fs/cgroup"
    write(groups / "slurm/job_7/memory.max", "4096\n")
    write(groups / "slurm/job_7/step_0/memory.max", "max\n")
    write(groups / "memory/docker/memory.limit_in_bytes", "2048\n")
    write(groups / "cpu/docker/memory.limit_in_bytes", "1\n")
    own = write(tmp_path / "own", "5:memory:/docker\n4:cpu:/docker\n0::/slurm/job_7/step_0\n")
    assert sorted(_limits(own, tmp_path)) == [2048, 4096]
    assert list(_limits(tmp_path / "not there", tmp_path)) == []


def test_main_memory_is_no_more_than_the_machines() -> None:
    assert 2**28 < free_memory.main_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_the_rank_with_the_least_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two share a machine of 100, a third has one of 70 to itself; on their GPUs 9, 8 and 7 are free."""
    every = [("a", 9, 100), ("a", 8, 100), ("b", 7, 70)]

    monkeypatch.setattr(Ranks, "gather", lambda ranks, values: [[one] for one in every])
    assert measure(torch.device("cpu"), Ranks()) == FreeMemory(device=7, main=50)


def test_where_there_is_room() -> None:
    memory = Memory(weights=5, gradients=0, optimizer=0, host=3)
    assert FreeMemory(device=5, main=3).holds(memory)
    assert not FreeMemory(device=4, main=9).holds(memory)
    assert not FreeMemory(device=9, main=2).holds(memory)
    assert FreeMemory(device=None, main=8).holds(memory)
    assert not FreeMemory(device=None, main=7).holds(memory)
