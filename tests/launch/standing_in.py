"""Ranks that stand in for those of a run: they meet, do nothing, and follow what they are asked.

$ python standing_in.py FOLDER     the parent; what the ranks do is seen by the files they leave in FOLDER
"""

import os
import sys
from pathlib import Path
from time import sleep
from types import ModuleType

from omegaconf import DictConfig
from support import compose

from trace_cl.launch import processes
from trace_cl.signals import Stopped, listening
from trace_cl.training.ranks import join

SECONDS = 2
"""What a checkpoint takes."""


def start(config: DictConfig) -> None:
    """Stands for a run's: it ends when it is asked to, and puts by what it has."""
    folder, rank = Path(config.runs_dir), os.environ["RANK"]

    def leave(name: str) -> None:
        (folder / f"{name}{rank}").write_text(str(os.getpid()))

    leave("started")
    while rank == "1" and config.seed == 2:
        sleep(0.1)  # it never meets the first
    join(cuda=False)
    with listening() as asked:
        leave("met")
        while not asked.end:
            if asked.checkpoint:
                leave("checkpoint")
            sleep(0.05)
        sleep(SECONDS)
        leave("put_by")
        raise Stopped(asked.end)


def stand_in() -> None:
    """Let a process start this instead of a run, of which it need not import anything then."""
    run = ModuleType("trace_cl.run")
    vars(run)["start"] = start
    sys.modules["trace_cl.run"] = run


if __name__ == "__main__":
    processes.PROGRAM = f"import standing_in; standing_in.stand_in(); {processes.PROGRAM}"
    folder, seed = sys.argv[1:]
    try:
        processes.launch(compose("engine=deepspeed", "engine.processes=2", f"runs_dir={folder}", f"seed={seed}"))
    except Stopped as stopped:
        sys.exit(stopped.code)
