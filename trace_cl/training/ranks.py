"""The processes of one run: how many there are, which of them this one is, and what they tell each other.

A run has one process a device. Every one of them goes through the same code in step; the first alone writes and speaks.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from time import sleep
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

PATIENCE = timedelta(hours=2)
"""How long a rank waits for the others: the first may be writing a large checkpoint. A rank that died is noticed by
whoever started it, long before."""


@dataclass(frozen=True)
class Ranks:
    """`rank` of `size` processes, the `local`-th on its machine. A single process needs no one, and talks to no one."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of every rank's tensor, on every rank; the tensor itself is changed."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, values: Sequence[T]) -> list[list[T]]:
        """Every rank's values, in rank order, on every rank."""
        if self.size == 1:
            return [list(values)]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, list(values))
        return gathered

    def broadcast(self, value: T) -> T:
        """The first rank's value, on every rank."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box)
        return box[0]

    def send(self, tensor: Tensor) -> Tensor:
        """The first rank's tensor, on every rank; it is written over the others', of the same shape and dtype."""
        if self.size > 1:
            dist.broadcast(tensor, src=0)
        return tensor

    def device(self, device: torch.device) -> torch.device:
        """This process's own device of that kind."""
        return torch.device("cuda", self.local) if device.type == "cuda" and device.index is None else device


def started_by_others() -> bool:
    """Whether torchrun, srun or the deepspeed launcher made this process one of several already."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


def first_here() -> bool:
    """Whether this process is the first rank, or no rank at all, before it has met the others."""
    return not started_by_others() or (os.environ.get("RANK") or os.environ.get("SLURM_PROCID")) == "0"


def after_the_first() -> None:
    """Where all ranks have the same to say the first says it; another waits, and has a say only if it outlives that."""
    if not first_here():
        sleep(3)


def join(cuda: bool) -> Ranks:
    """Find the other ranks by the environment, and connect with them; NCCL between GPUs, gloo between CPUs.

    RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as torchrun sets them, or SLURM's own names under srun.
    """
    if not started_by_others():
        return Ranks()
    if "WORLD_SIZE" not in os.environ:
        os.environ.update(_slurm())
    ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", 0)))
    if cuda:
        torch.cuda.set_device(ranks.local)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    return ranks


def leave() -> None:
    """Part from the other ranks: a process that ends without it may be aborted by what waits for theirs."""
    if dist.is_initialized():
        # DeepSpeed keeps groups of its own: the next run of a sweep would go on using them.
        deepspeed = sys.modules.get("deepspeed.comm")
        (deepspeed if deepspeed and deepspeed.is_initialized() else dist).destroy_process_group()


def _slurm() -> dict[str, str]:
    """What torchrun would have set, from what srun sets. The port follows from the job: two jobs do not meet."""
    here = os.environ
    names = ["scontrol", "show", "hostnames", here["SLURM_STEP_NODELIST"]]
    first_node = subprocess.run(names, capture_output=True, text=True, check=True).stdout.split()[0]
    return {
        "RANK": here["SLURM_PROCID"],
        "LOCAL_RANK": here["SLURM_LOCALID"],
        "WORLD_SIZE": here["SLURM_STEP_NUM_TASKS"],
        "MASTER_ADDR": here.get("MASTER_ADDR", first_node),
        "MASTER_PORT": here.get("MASTER_PORT", str(20000 + int(here["SLURM_JOB_ID"]) % 40000)),
    }
