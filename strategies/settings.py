"""What the numbers among the settings must be, and the one sentence with which another is refused."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Finite numbers from `least` to `most`; with `above` and `below` these themselves are left out."""

    least: float
    most: float = math.inf
    above: bool = False
    below: bool = False

    def __str__(self) -> str:
        if not self.above and not self.below and self.most < math.inf:
            return f"between {self.least} and {self.most}"
        least = f"{'greater than' if self.above else 'at least'} {self.least}"
        return least if self.most == math.inf else f"{least} and {'less than' if self.below else 'at most'} {self.most}"

    def check(self, key: str, value: float) -> None:
        """Raise ValueError naming the key for a number that lies outside, or is none."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{key}={value} must be a number {self}")
        if not math.isfinite(value):
            raise ValueError(f"{key}={value} must be finite, and {self}")
        left_out = {*([self.least] if self.above else []), *([self.most] if self.below else [])}
        if not self.least <= value <= self.most or value in left_out:
            raise ValueError(f"{key}={value} must be {self}")


COUNT = Range(1)
POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)
SHARE = Range(0, 1)
BELOW_ONE = Range(0, 1, below=True)
