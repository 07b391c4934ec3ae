"""The door: `trace-cl [key=value …]`, or `python -m trace_cl [key=value …]`.

Whoever asks it to end while the rest is still being imported is not shown a page of text.
"""

import signal
from typing import NoReturn

from trace_cl.doors import leave
from trace_cl.signals import ENDING, die, handling


def main() -> int:
    """Run the command; give its exit code."""
    # A process that is asked to put by what it has would end where it has nothing yet; ranks inherit that it does not.
    with handling([signal.SIGUSR1], signal.SIG_IGN), handling(ENDING, die):
        from trace_cl.command import main

        return main()


def enter() -> NoReturn:
    """The console script `trace-cl`."""
    leave(main)


if __name__ == "__main__":
    enter()
