"""The two figures that sum up a sequential run: how well it does at the end, and how much it has forgotten.

Both read the matrix S, where S[t, i] is the score on task i after round t. Four conventions of backward transfer are
in use; this is the one of HFT (arXiv 2404.18466), which divides by t and not by t - 1.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
    return float(_until(S, t)[-1].mean())


def backward_transfer(S: Matrix, t: int | None = None) -> float:
    """BWT_t = 1/t · Σ_{i<t} (S[t, i] - S[i, i]): what later rounds did to earlier tasks, negative where forgotten.

    Args:
        S: rounds by tasks; rows of later rounds may be missing or empty.
        t: the round, counted from 1; by default the last finished one.

    Raises:
        ValueError: S is not rectangular, has no round t, or lacks a score on or below the diagonal until there.
    """
    scores = _until(S, t)
    # Task t itself adds zero to the sum, so the mean over all t tasks is the formula.
    return float((scores[-1] - scores.diagonal()).mean())


def _until(S: Matrix, t: int | None) -> NDArray[np.float64]:
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
