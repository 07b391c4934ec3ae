"""Starting a run: in this process, or as one process a device on this machine.

Under torchrun, srun or the deepspeed launcher the ranks are there already, and this process is one of them. What a run
is made of takes seconds to import: that is left to the processes that do one.
"""

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from time import sleep, time
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is documented, if not listed

from trace_cl.config import as_dict, check, only_planned
from trace_cl.errors import UserError
from trace_cl.signals import ENDING, Stopped, listening, signals
from trace_cl.training.layout import processes
from trace_cl.training.ranks import after_the_first, leave, started_by_others

PASSED_ON = (*ENDING, signal.SIGUSR1)

PROGRAM = "import sys; from trace_cl.launch.processes import be_a_rank; be_a_rank(sys.argv[1])"


class RankFailed(Exception):
    """One of the processes of a run came to grief: its text is what that one said."""


def launch(config: DictConfig) -> None:
    """Do a run, on as many processes as the configuration asks for.

    Raises UserError and Stopped as `start` does, and RankFailed with the first rank's own error, once the others are
    ended too.
    """
    check(config)
    count = processes(config.engine, config.device)
    alone = only_planned(config) and not config.calibrate
    if count > 1 and not alone and not started_by_others():
        if config.device != "cpu" and count > (gpus := torch.cuda.device_count()) > 0:
            raise UserError(f"engine.processes={count} is more than this machine's GPUs ({gpus}): lower it")
        _on_this_machine(count, config)
        return
    from trace_cl.run import start

    try:
        start(config)
    except Stopped:
        leave()
        raise
    except BaseException as error:
        if isinstance(error, UserError):
            after_the_first()
        leave(politely=False)
        raise
    leave()


def _on_this_machine(count: int, config: DictConfig) -> None:
    """Start the ranks, pass on to them what this process is asked, and wait for them, however long they take.

    A second request to end is not passed on: it ends this process, and they with it.
    """
    with TemporaryDirectory() as folder, listening() as asked:
        Path(folder, "config.json").write_text(json.dumps(as_dict(config)))
        # They meet at a store of this process: no other can take its port before they do.
        store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        with _held_back():
            ranks = [_start(rank, count, store.port, folder) for rank in range(count)]
        told = False
        try:
            while None in (states := [rank.poll() for rank in ranks]) and all(map(_in_order, states)):
                if asked.end and not told:
                    _tell(ranks, asked.end)
                    told = True
                if asked.checkpoint:
                    asked.checkpoint = False
                    _tell(ranks, signal.SIGUSR1)
                sleep(0.1)
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        failed = {number: state for number, state in enumerate(states) if state is not None and not _in_order(state)}
        if asked.end and -asked.end in failed.values():
            print("\ninterrupted", file=sys.stderr)
            raise Stopped(asked.end)
        if failed:
            raise what_failed(Path(folder), failed)
        if stopped := max(rank.returncode for rank in ranks):
            raise Stopped(stopped - 128)


def _in_order(code: int | None) -> bool:
    """Whether a rank is still at work, or has ended because it was done, or after it put by what it had."""
    return code in (None, 0, *(128 + asked for asked in ENDING))


def _start(rank: int, count: int, port: int, folder: str) -> subprocess.Popen[bytes]:
    """A process that is one of the ranks, in a session of its own: Ctrl-C in the terminal does not reach it."""
    surroundings = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count))),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, folder],
        env={**os.environ, **surroundings},
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


@contextmanager
def _held_back() -> Iterator[None]:
    """What is asked of a process that is started meanwhile waits until it says that it is ready to be asked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _tell(ranks: list[subprocess.Popen[bytes]], asked: int) -> None:
    for rank in ranks:
        rank.send_signal(asked)


def be_a_rank(folder: str) -> None:
    """One process of a run. What goes wrong is left in `folder` for the one who shows it.

    It then ends on the spot: the connection's threads would abort a process that takes its leave without the others.
    """
    Thread(target=_end_with_the_parent, daemon=True).start()
    signals.led = True
    # Until the run listens nothing is there to be put by. The system itself is to end this process, which may be
    # waiting for the other ranks in C++, where no handler of Python's is ever called.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    for each in ENDING:
        signal.signal(each, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    try:
        from trace_cl.run import start

        start(OmegaConf.create(json.loads(Path(folder, "config.json").read_text())))
        leave()
    except Stopped as stopped:
        leave()
        sys.stdout.flush()
        os._exit(stopped.code)
    except Exception as error:
        known = isinstance(error, UserError)
        failure = {"time": time(), "known": known, "text": str(error) if known else traceback.format_exc()}
        Path(folder, f"failure{os.environ['RANK']}.json").write_text(json.dumps(failure))
        sleep(1)  # if this follows from another rank's sudden death, that one is to be noticed first
        os._exit(1)


def _end_with_the_parent() -> None:
    """End on the spot when the other end of standard input is closed: when the parent has ended, in whatever way."""
    os.read(0, 1)
    os._exit(1)


def what_failed(folder: Path, ended: dict[int, int]) -> Exception:
    """The failure that came first, of the ranks that ended with these exit codes: the others' are what followed."""
    for rank, code in ended.items():
        if code < 0:
            return RankFailed(f"rank {rank} was ended by {signal.Signals(-code).name}")
    reported = sorted(
        (
            json.loads(path.read_text()) | {"rank": path.stem.removeprefix("failure")}
            for path in folder.glob("failure*")
        ),
        key=_by_time,
    )
    if not reported:
        return RankFailed("; ".join(f"rank {rank} ended with exit code {code}" for rank, code in ended.items()))
    first = reported[0]
    return UserError(first["text"]) if first["known"] else RankFailed(f"rank {first['rank']}:\n{first['text']}")


def _by_time(reported: dict[str, Any]) -> float:
    return float(reported["time"])
