"""How much memory there is where a run is to be made: on each device, and beside it."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from trace_cl.training.memory import Memory
from trace_cl.training.ranks import Ranks


@dataclass(frozen=True)
class FreeMemory:
    """Bytes for each rank: what is free on its GPU (None: it has none, and computes in main memory), and its part of
    the machine's main memory."""

    device: int | None
    main: int

    def holds(self, memory: Memory) -> bool:
        """Whether there is room."""
        if self.device is None:
            return memory.total + memory.host <= self.main
        return memory.total <= self.device and memory.host <= self.main


def measure(device: torch.device, ranks: Ranks) -> FreeMemory:
    """What the rank has that has the least; all ranks call it in step."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    every = [one for [one] in ranks.gather([(socket.gethostname(), free, main_memory())])]
    machines = [machine for machine, _, _ in every]
    return FreeMemory(
        device=min((free for _, free, _ in every if free is not None), default=None),
        main=min(main // machines.count(machine) for machine, _, main in every),
    )


def main_memory() -> int:
    """Bytes of main memory that this process can have at the very most: the machine's, or its container's."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_limits(Path("/proc/self/cgroup"), Path("/"))])


def _limits(own: Path, root: Path) -> Iterator[int]:
    """Those of the control groups that a process is in (both versions), and of all that these are in."""
    for line in own.read_text().splitlines() if own.exists() else []:
        _, kinds, group = line.split(":", 2)
        if kinds in ("", "memory"):
            base, name = ("", "memory.max") if not kinds else ("memory", "memory.limit_in_bytes")
            inner = root / "sys/fs/cgroup" / base / group.lstrip("/")
            for folder in (inner, *inner.parents):
                if (file := folder / name).is_file() and (said := file.read_text().strip()).isdigit():
                    yield int(said)
