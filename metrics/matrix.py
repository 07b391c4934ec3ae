"""The figures that sum up a sequential run: how well it does at the end, what it has forgotten, how well it learned.

All read the matrix S, where S[t, i] is the score on task i after round t. Four conventions of backward transfer are
in use; this is the one of HFT (arXiv 2404.18466), which divides by t and not by t - 1. A new figure is a function here
and an entry in `FIGURES`: whatever shows figures goes through that list.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

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
    return float(_overall_performance(until(S, t)))


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
    scores = until(S, t)
    return float(_backward_transfer(scores) if divisor == "t" else backward_transfer_of_past(scores))


def learned(S: Matrix, t: int | None = None) -> float:
    """1/t · Σ_{i≤t} S[i, i]: the mean score of the tasks just after each was learned; OP_t - BWT_t.

    Args:
        S: rounds by tasks; rows of later rounds may be missing or empty.
        t: the round, counted from 1; by default the last finished one.

    Raises:
        ValueError: S is not rectangular, has no round t, or lacks a score on or below the diagonal until there.
    """
    return float(_learned(until(S, t)))


# What follows is of one matrix t × t, or of many at once (… × t × t), as a bootstrap has them.


def _overall_performance(scores: Floats) -> Floats:
    return np.asarray(scores[..., -1, :].mean(axis=-1))


def _learned(scores: Floats) -> Floats:
    return np.asarray(diagonal(scores).mean(axis=-1))


def _backward_transfer(scores: Floats) -> Floats:
    return np.asarray((scores[..., -1, :] - diagonal(scores)).mean(axis=-1))  # of task t itself zero


def backward_transfer_of_past(scores: Floats) -> Floats:
    """Of matrices … × t × t, the BWT that is divided by the t - 1 past tasks; after one round 0."""
    t = scores.shape[-1]
    return np.asarray(_backward_transfer(scores) * t / max(t - 1, 1))


def diagonal(scores: Floats, above: int = 0) -> Floats:
    """S[i, i] of matrices … × t × t, or S[i, i + above]."""
    found: Floats = np.diagonal(scores, above, axis1=-2, axis2=-1)
    return found


Needed = Literal["zero_shot", "single_task", "joint"]
"""Runs whose scores, one a task, a figure holds a matrix against: the base model, a model a task, one of all tasks."""


@dataclass(frozen=True)
class Figure:
    """One number that sums up a matrix after round t.

    `name` is its key in summary.json and its row or column in tables; `meaning` and `formula` stand where it is
    explained. `of` computes it of matrices … × t × t, and takes the scores … × t of another run besides where it
    `needs` one. `signed` is a difference, of which zero is the middle. A figure that looks at the scores just after
    learning (`of_learned`) says nothing after a round in which nothing was learned. One of the tasks to come
    (`of_unseen`) wants the scores above the diagonal, and two tasks.
    """

    name: str
    of: Callable[..., Floats]
    meaning: str
    formula: str
    signed: bool = False
    of_learned: bool = False
    of_unseen: bool = False
    needs: Needed | None = None


FIGURES = (
    Figure("OP", _overall_performance, "the mean score of the tasks seen", "OP_t = 1/t · Σ_{i≤t} S[t,i]"),
    Figure(
        "BWT",
        _backward_transfer,
        "what later rounds did to earlier tasks, negative where these were forgotten",
        "BWT_t = 1/t · Σ_{i<t} (S[t,i] − S[i,i]), divided by t as in the HFT paper",
        signed=True,
        of_learned=True,
    ),
    Figure(
        "learned",
        _learned,
        "the mean score just after learning",
        "learned_t = 1/t · Σ_{i≤t} S[i,i]",
        of_learned=True,
    ),
)
"""What is reported wherever there are figures, in the order in which it is shown."""


def figures(
    S: Matrix,
    untrained: Collection[int] = (),
    chosen: Sequence[Figure] | None = None,
    baselines: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, list[float | None]]:
    """Every figure after every finished round, by name; None where it is undefined.

    Args:
        S: rounds by tasks, as for `overall_performance`.
        untrained: the rounds, counted from 1, in which nothing was learned (joint training, zero-shot). From the first
            of them on, a figure of the scores just after learning is undefined.
        chosen: which; by default `FIGURES`.
        baselines: the scores of other runs, one a task, by what a figure `needs`.

    Raises:
        ValueError: as `overall_performance`.
    """
    rounds = range(1, len(until(S, None)) + 1)
    learning = min(untrained, default=len(rounds) + 1)
    return {
        figure.name: [
            None if figure.of_learned and learning <= t else _after(figure, until(S, t), baselines or {})
            for t in rounds
        ]
        for figure in (FIGURES if chosen is None else chosen)
    }


def _after(figure: Figure, scores: Floats, baselines: Mapping[str, Sequence[float]]) -> float | None:
    """The figure of a matrix t × t; None where scores that it wants are not there."""
    t = len(scores)
    if figure.of_unseen and (t < 2 or not np.isfinite(diagonal(scores, above=1)).all()):
        return None
    if figure.needs is None:
        return float(figure.of(scores))
    baseline = baselines.get(figure.needs)
    return None if baseline is None else float(figure.of(scores, np.asarray(baseline[:t], dtype=np.float64)))


def until(S: Matrix, t: int | None) -> Floats:
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
