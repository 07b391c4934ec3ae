"""The processes of one run: how many there are, which of them this one is, and what they tell each other.

A run has one process a device. Every one of them goes through the same code in step; the first alone writes and speaks.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from time import sleep
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from trace_cl.errors import UserError
from trace_cl.training.watch import Watch

T = TypeVar("T")

MEETING = timedelta(minutes=10)
"""How long the ranks may take to find each other."""

PATIENCE = timedelta(hours=2)
"""How long a rank waits for the others: the first may be writing a large checkpoint. One that died is noticed long
before (`watch`)."""


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


def on_the_first(ranks: Ranks, act: Callable[[], T]) -> T:
    """What the first rank finds, on every rank; what it refuses is refused by all. Raises UserError."""
    found, refused = None, None
    if ranks.first:
        try:
            found = act()
        except UserError as error:
            refused = str(error)
    found, refused = ranks.broadcast((found, refused))
    if refused is not None:
        raise UserError(refused)
    return cast(T, found)


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
    local = int(os.environ.get("LOCAL_RANK", 0))
    if cuda:
        local = own_device(local, torch.cuda.device_count())
        os.environ["LOCAL_RANK"] = str(local)  # DeepSpeed goes by it
        torch.cuda.set_device(local)
    ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), local)
    if not dist.is_initialized():
        _meet(ranks, "nccl" if cuda else "gloo")
    return ranks


def own_device(local: int, visible: int) -> int:
    """The number of the GPU that belongs to a machine's `local`-th process.

    Where a process sees one alone (`srun --gpus-per-task=1`) that is its own. Raises UserError where there are too few.
    """
    if visible == 1:
        return 0
    if local >= visible:
        raise UserError(f"process {local} of this machine has no GPU, of which there are {visible}: start no more")
    return local


_watch: Watch | None = None


def _meet(ranks: Ranks, backend: str) -> None:
    """Connect with the other ranks. Raises UserError where that cannot be."""
    global _watch
    host, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    try:
        store, *_ = next(rendezvous("env://", ranks.rank, ranks.size, timeout=MEETING))
    except dist.DistError as error:
        if "EADDRINUSE" in str(error):
            raise UserError(
                f"port {port}, at which the ranks are to meet, is in use on {host}: set MASTER_PORT to a free one"
            ) from error
        raise UserError(
            f"rank {ranks.rank} of {ranks.size} did not meet all others at {host}:{port} within {MEETING}: "
            "see that every one was started, with the same MASTER_ADDR and MASTER_PORT"
        ) from error
    store.set_timeout(PATIENCE)
    dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.size, timeout=PATIENCE)
    _watch = Watch.begin(ranks.rank, ranks.size, host, ranks.broadcast)


def leave(politely: bool = True) -> None:
    """Part from the other ranks: a process that ends without it may be aborted by what waits for theirs.

    Where it is not done politely the others end too: they would wait in vain for this one.
    """
    global _watch
    if _watch is not None:
        _watch.leave(politely)
        _watch = None
    if dist.is_initialized():
        # DeepSpeed keeps groups of its own: the next run of a sweep would go on using them.
        deepspeed = sys.modules.get("deepspeed.comm")
        (deepspeed if deepspeed and deepspeed.is_initialized() else dist).destroy_process_group()


def _slurm() -> dict[str, str]:
    """What torchrun would have set, from what srun sets."""
    here = os.environ
    names = ["scontrol", "show", "hostnames", here["SLURM_STEP_NODELIST"]]
    first_node = subprocess.run(names, capture_output=True, text=True, check=True).stdout.split()[0]
    return {
        "RANK": here["SLURM_PROCID"],
        "LOCAL_RANK": here["SLURM_LOCALID"],
        "WORLD_SIZE": here["SLURM_STEP_NUM_TASKS"],
        "MASTER_ADDR": here.get("MASTER_ADDR", first_node),
        "MASTER_PORT": here.get("MASTER_PORT", str(port_of(int(here["SLURM_JOB_ID"]), int(here["SLURM_STEP_ID"])))),
    }


def port_of(job: int, step: int) -> int:
    """Where the ranks of a job's step meet: two steps, and two jobs of numbers close together, do not; and below the
    ports that a system hands out by itself (from 32768 on)."""
    return 12_000 + (101 * job + step) % 20_000
