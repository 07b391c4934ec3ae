"""The figures that sum up a sequential run: how well it does at the end, what it has forgotten, how well it learned.

All read the matrix S, where S[t, i] is the score on task i after round t. Four conventions of backward transfer are
in use; this is the one of HFT (arXiv 2404.18466), which divides by t and not by t - 1. A new figure is a function here
and an entry in `FIGURES`: whatever shows figures goes through that list.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

_DIVISORS: dict[str, Callable[[int], int]] = {"t": lambda t: t, "t-1": lambda t: max(t - 1, 1)}

Matrix = ArrayLike | Sequence[Sequence[float | None]]
"""Rounds by tasks, NaN or None where nothing was scored: lists, a NumPy array, or a DataFrame of task columns."""


def overall_performance(S: Matrix, t: int | None = None) -> float:
    """OP_t = 1/t · Σ_{i≤t} S[t, i]: the mean score after round t on the tasks seen until then.

    Args:
        S: rounds by tasks; rows of later rounds may be missing or empty.
        t: the round, counted from 1; by default the last finished one.

    Raises:
        ValueError: S is not rectangular, has no round t, or lacks a score on or below the diagonal until there.
    """
    return float(until(S, t)[-1].mean())


def backward_transfer(S: Matrix, t: int | None = None, divisor: Literal["t", "t-1"] = "t") -> float:
    """BWT_t = 1/t · Σ_{i<t} (S[t, i] - S[i, i]): what later rounds did to earlier tasks, negative where forgotten.

    Args:
        S: rounds by tasks; rows of later rounds may be missing or empty.
        t: the round, counted from 1; by default the last finished one.
        divisor: of the sum. t is HFT's (equation 5) and the code of SAPT's, t-1 that of GEM (Lopez-Paz and Ranzato,
            2017, equation 3), whose figure is larger by t / (t-1), and 0 after the first round.

    Raises:
        ValueError: S is not rectangular, has no round t, or lacks a score on or below the diagonal until there.
    """
    changes = until(S, t)[-1] - until(S, t).diagonal()  # of task t itself zero
    return float(changes.sum() / _DIVISORS[divisor](len(changes)))


def learned(S: Matrix, t: int | None = None) -> float:
    """1/t · Σ_{i≤t} S[i, i]: the mean score of the tasks just after each was learned; OP_t - BWT_t.

    Args:
        S: rounds by tasks; rows of later rounds may be missing or empty.
        t: the round, counted from 1; by default the last finished one.

    Raises:
        ValueError: S is not rectangular, has no round t, or lacks a score on or below the diagonal until there.
    """
    return float(until(S, t).diagonal().mean())


@dataclass(frozen=True)
class Figure:
    """One number that sums up a matrix after round t.

    `name` is its key in summary.json and its row or column in tables; `meaning` and `formula` stand where it is
    explained. `signed` is a difference, of which zero is the middle. A figure that looks at the scores just after
    learning (`of_learned`) says nothing after a round in which nothing was learned.
    """

    name: str
    of: Callable[[Matrix, int | None], float]
    meaning: str
    formula: str
    signed: bool = False
    of_learned: bool = False


FIGURES = (
    Figure("OP", overall_performance, "the mean score of the tasks seen", "OP_t = 1/t · Σ_{i≤t} S[t,i]"),
    Figure(
        "BWT",
        backward_transfer,
        "what later rounds did to earlier tasks, negative where these were forgotten",
        "BWT_t = 1/t · Σ_{i<t} (S[t,i] − S[i,i]), divided by t as in the HFT paper",
        signed=True,
        of_learned=True,
    ),
    Figure(
        "learned",
        learned,
        "the mean score just after learning",
        "learned_t = 1/t · Σ_{i≤t} S[i,i]",
        of_learned=True,
    ),
)
"""All that is reported, in the order in which it is shown."""


def figures(S: Matrix, untrained: Collection[int] = ()) -> dict[str, list[float | None]]:
    """Every figure after every finished round, by name; None where it is undefined.

    Args:
        S: rounds by tasks, as for `overall_performance`.
        untrained: the rounds, counted from 1, in which nothing was learned (joint training, zero-shot). From the first
            of them on, a figure of the scores just after learning is undefined.

    Raises:
        ValueError: as `overall_performance`.
    """
    rounds = range(1, len(until(S, None)) + 1)
    return {
        figure.name: [
            None if figure.of_learned and min(untrained, default=t + 1) <= t else figure.of(S, t) for t in rounds
        ]
        for figure in FIGURES
    }


def until(S: Matrix, t: int | None) -> NDArray[np.float64]:
    """The t by t matrix of the first t rounds and tasks, complete on and below its diagonal."""
    try:
        scores = np.array(S, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("The score matrix must hold numbers in rows of equal length.") from error
    if scores.ndim != 2:
        raise ValueError(f"The score matrix must have rounds and tasks, but it has {scores.ndim} dimension(s).")

    finished = np.flatnonzero(np.isfinite(scores.diagonal()))
    if t is None:
        t = int(finished[-1]) + 1 if finished.size else 0
    if not 1 <= t <= min(scores.shape):
        raise ValueError(f"The score matrix of {scores.shape[0]} rounds and {scores.shape[1]} tasks has no round {t}.")

    block = scores[:t, :t]
    if not np.isfinite(np.tril(block)).all():
        raise ValueError(f"The score matrix lacks a score on or below its diagonal in the first {t} rounds.")
    return block
