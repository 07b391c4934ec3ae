"""What a score of few examples says."""

from math import sqrt

NORMAL = 1.959963984540054
"""The quantile of the normal distribution that leaves 2.5% above."""

SMALL = 100
"""Scored examples below which a score's interval is shown."""


def wilson(score: float, rows: int) -> tuple[float, float]:
    """The 95% interval of a mean score (0 to 100) of `rows` examples, by Wilson (1927), as of right and wrong answers.

    Where an example can score in between, as by ROUGE-L, scores vary less than that, and the interval is too wide.
    """
    share, z = score / 100, NORMAL
    centre = share + z**2 / (2 * rows)
    half = z * sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    scale = 100 / (1 + z**2 / rows)
    return max(0.0, scale * (centre - half)), min(100.0, scale * (centre + half))
