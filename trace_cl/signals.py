"""What the system asks of a run: to end (SIGTERM, Ctrl-C), or to put by what it has and go on (SIGUSR1).

A run looks at `signals` between two steps and between two batches of answers, when everything is whole. A second
request to end is not waited with.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

ENDING = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A run has ended because it was asked to, with everything put by; `code` is the exit code."""

    def __init__(self, asked: int) -> None:
        super().__init__(asked)
        self.code = 128 + asked

    def __str__(self) -> str:
        return signal.Signals(self.args[0]).name


@dataclass
class Signals:
    """What has been asked so far: by which signal to end (0: none did), and whether to put by what there is.

    `led`: a parent passes on to this process what it is asked, and ends it where it is asked twice. The system may ask
    both of them (Slurm does), so that here the second is no more than the first. `usual` is what else would have been
    done at SIGUSR1.
    """

    end: int = 0
    checkpoint: bool = False
    led: bool = False
    usual: Any = None

    def put_by(self) -> None:
        """What there is has been put by: whoever would have heard of SIGUSR1 but for the run hears of it now. (submitit
        is one: it has Slurm requeue the job.)"""
        asked, self.checkpoint = self.checkpoint, False
        if asked and callable(self.usual):
            self.usual(signal.SIGUSR1, None)


signals = Signals()


def die(asked: int, frame: FrameType | None = None) -> NoReturn:
    """End on the spot: before a run begins nothing has been written, and later all that is kept is whole."""
    with suppress(OSError):
        os.write(2, b"\ninterrupted\n")
    os._exit(128 + asked)


@contextmanager
def handling(
    which: Iterable[int], handler: Callable[[int, FrameType | None], object] | signal.Handlers
) -> Iterator[None]:
    """Have these signals handled so; a thread beside the main one cannot ask for that, and does not."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, handler) for each in which}
    try:
        yield
    finally:
        for each, usual in before.items():
            signal.signal(each, usual)


@contextmanager
def listening() -> Iterator[Signals]:
    """Note down what is asked instead of following it at once."""

    def end(asked: int, frame: FrameType | None) -> None:
        if signals.end and not signals.led:
            die(asked)
        signals.end = asked

    def put_by(asked: int, frame: FrameType | None) -> None:
        signals.checkpoint = True

    signals.end, signals.checkpoint, signals.usual = 0, False, signal.getsignal(signal.SIGUSR1)
    with handling(ENDING, end), handling([signal.SIGUSR1], put_by):
        yield signals
