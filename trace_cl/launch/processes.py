"""Starting a run: in this process, or as one process a device on this machine, by torch's own elastic launcher.

Under torchrun, srun or the deepspeed launcher the ranks are there already, and this process is one of them.
"""

import json
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep, time
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from trace_cl.config import as_dict, check, only_planned
from trace_cl.errors import UserError
from trace_cl.run import start
from trace_cl.training.layout import processes
from trace_cl.training.ranks import after_the_first, leave, started_by_others


class RankFailed(Exception):
    """One of the processes of a run came to grief: its text is what that one said."""


def launch(config: DictConfig) -> None:
    """Do a run, on as many processes as the configuration asks for.

    Raises UserError as `start` does, and RankFailed with the first rank's own error, once the others are ended too.
    """
    check(config)
    count = processes(config.engine, config.device)
    if count == 1 or only_planned(config) or started_by_others():
        try:
            start(config)
        except UserError:
            after_the_first()
            leave()
            raise
        leave()
        return
    if config.device != "cpu" and count > (gpus := torch.cuda.device_count()) > 0:
        raise UserError(f"engine.processes={count} is more than this machine's GPUs ({gpus}): lower it")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    for talkative in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(talkative).setLevel(logging.CRITICAL)
    with TemporaryDirectory() as folder:
        on_this_machine = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id="trace_cl",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            monitor_interval=0.1,
            start_method="spawn",
        )
        try:
            elastic_launch(on_this_machine, be_a_rank)(as_dict(config), folder)
        except ChildFailedError as error:
            raise what_failed(Path(folder), error) from None
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            sys.exit(128 + error.sigval)


def be_a_rank(config: dict[str, Any], failures: str) -> None:
    """One process of a run. What goes wrong is left in `failures` for the one who shows it.

    It then ends on the spot: the connection's threads would abort a process that takes its leave without the others.
    """
    try:
        start(OmegaConf.create(config))
        leave()
    except KeyboardInterrupt:
        os._exit(128 + signal.SIGINT)
    except Exception as error:
        known = isinstance(error, UserError)
        failure = {"time": time(), "known": known, "text": str(error) if known else traceback.format_exc()}
        Path(failures, os.environ["RANK"]).write_text(json.dumps(failure))
        sleep(1)  # if this follows from another rank's sudden death, that one is to be noticed first
        os._exit(1)


def what_failed(folder: Path, error: ChildFailedError) -> Exception:
    """The failure that came first: the others' are what followed from it."""
    for rank, failure in error.failures.items():
        if failure.exitcode < 0:
            return RankFailed(f"rank {rank} was ended by {signal.Signals(-failure.exitcode).name}")
    reported = sorted((json.loads(path.read_text()) | {"rank": path.name} for path in folder.iterdir()), key=_by_time)
    if not reported:
        return RankFailed(str(error))
    first = reported[0]
    return UserError(first["text"]) if first["known"] else RankFailed(f"rank {first['rank']}:\n{first['text']}")


def _by_time(reported: dict[str, Any]) -> float:
    return float(reported["time"])
