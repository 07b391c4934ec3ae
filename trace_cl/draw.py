"""Seeded drawing that gives the same examples on every machine.

Of all that `random.Random` offers, Python promises the same sequence in every version for `random()` alone, so
whatever is drawn here goes through that one method.
"""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """A stream of random choices, fixed by `seed` for good."""

    def __init__(self, seed: int) -> None:
        self._uniform = random.Random(seed).random

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self._uniform() < probability

    def between(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return low + int(self._uniform() * (high - low + 1))

    def one(self, of: Sequence[T]) -> T:
        """One element, each as likely as the next."""
        return of[self.between(0, len(of) - 1)]

    def some(self, of: Sequence[T], count: int) -> list[T]:
        """`count` elements of different positions, in random order (a shuffle, when `count` is the length)."""
        rest = list(of)
        return [rest.pop(self.between(0, len(rest) - 1)) for _ in range(count)]
