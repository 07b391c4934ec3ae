"""What the system asks of a run: to end (SIGTERM, Ctrl-C), or to put by what it has and go on (SIGUSR1).

A run looks at `signals` between two steps and between two batches of answers, when everything is whole. A second
request to end is not waited with.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

ENDING = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A run has ended because it was asked to, with everything put by; `code` is the exit code."""

    def __init__(self, asked: int) -> None:
        super().__init__(signal.Signals(asked).name)
        self.code = 128 + asked


@dataclass
class Signals:
    """What has been asked so far: by which signal to end (0: none did), and whether to put by what there is.

    `led`: a parent passes on to this process what it is asked, and ends it where it is asked twice. The system may ask
    both of them (Slurm does), so that here the second is no more than the first.
    """

    end: int = 0
    checkpoint: bool = False
    led: bool = False


signals = Signals()


def die(asked: int, frame: FrameType | None = None) -> NoReturn:
    """End on the spot, with one line: before a run begins nothing has been written; later all that is kept is whole."""
    with suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"\ninterrupted\n")
    os._exit(128 + asked)


def handle(handler: Callable[[int, FrameType | None], object]) -> None:
    """Have requests to end handled so; a thread beside the main one cannot ask for that."""
    if threading.current_thread() is threading.main_thread():
        for each in ENDING:
            signal.signal(each, handler)


@contextmanager
def listening() -> Iterator[Signals]:
    """Note down what is asked instead of following it at once."""

    def note(asked: int, frame: FrameType | None) -> None:
        if signals.end and not signals.led:
            die(asked)
        signals.end = asked

    def put_by(asked: int, frame: FrameType | None) -> None:
        signals.checkpoint = True

    signals.end, signals.checkpoint = 0, False
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {each: signal.getsignal(each) for each in (*ENDING, signal.SIGUSR1)}
    handle(note)
    signal.signal(signal.SIGUSR1, put_by)
    try:
        yield signals
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
