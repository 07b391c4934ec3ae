"""One process at a time: a lock on a run's directory, which the system lifts when its holder ends, however it ends."""

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from trace_cl.errors import UserError
from trace_cl.records.files import guard

NAME = ".lock"


class Lockless(UserError):
    """The file system knows no locks."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process out of a run.

    Of a run that could not begin nothing is left. Raises UserError where another process is at it, or where the file
    system has no locks.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    path = folder / NAME
    while True:
        with guard(folder):
            lock = _open(path)
        try:
            _claim(lock, folder)
        except Lockless:
            _leave_nothing(folder, made)
            raise
        # Whoever held it before may have taken the file away: then this lock keeps nobody out.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                break
        lock.close()
    with lock:
        try:
            yield
        finally:
            _leave_nothing(folder, made)


def _open(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return path.open("a")
    except FileNotFoundError:  # whoever held it has just taken the folder away
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a")


def _claim(lock: TextIO, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UserError(f"{folder} is being run by another process: wait for it, or end it") from error
    except OSError as error:
        lock.close()
        reason = errno.errorcode.get(error.errno or 0, str(error))
        raise Lockless(
            f"{folder} lies on a file system without locks ({reason}), where two processes could write one "
            "run: set runs_dir to a folder on another"
        ) from error


def _leave_nothing(folder: Path, made: Sequence[Path]) -> None:
    """Of a folder that holds nothing but the lock, and of those that were made for it."""
    if [path.name for path in folder.iterdir()] == [NAME]:
        (folder / NAME).unlink()
        for empty in made:
            with suppress(OSError):  # another run has come to lie there
                empty.rmdir()
