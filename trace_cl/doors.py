"""The way out of every command."""

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn


def leave(command: Callable[[], int]) -> NoReturn:
    """End the process with a command's exit code; where nobody reads on (`… | head`) without a word, as a program does
    that SIGPIPE ends."""
    try:
        code = command()
        sys.stdout.flush()
    except BrokenPipeError:
        code = unread()
    sys.exit(code)


def unread() -> int:
    """Nobody reads on: let what is left of the output, which Python writes when it ends, go nowhere. Gives the exit
    code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE
