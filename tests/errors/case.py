"""A way in which something can be wrong, and what is said of it."""

from collections.abc import Callable
from dataclasses import dataclass

from errors.place import Place


@dataclass(frozen=True)
class Case:
    """`arguments` are added to those of a run that nothing is wrong with, once `spoil` has been there.

    In `arguments` {model}, {root} and {runs} are the place's folders; in `sentence` they stand in capital letters. With
    `begun` there lies a run that was interrupted after its first round.
    """

    what: str
    arguments: str
    sentence: str
    spoil: Callable[[Place], object] | None = None
    begun: bool = False
