"""Other figures of a sequential run by their authors' definitions; some need scores that its own matrix has not.

All read the matrix S as `matrix` does, where S[t, i] is the score on task i after round t.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .matrix import Figure, Floats, Matrix, backward_transfer_of_past, diagonal, until


def average_performance(S: Matrix, t: int | None = None) -> float:
    """1/t · Σ_{k≤t} OP_k: the mean over rounds of the mean score of the tasks seen, also called incremental accuracy
    (Rebuffi et al., CVPR 2017). Raises ValueError as `overall_performance`."""
    return float(_average_performance(until(S, t)))


def forgetting(S: Matrix, t: int | None = None) -> float:
    """F_t = 1/(t-1) · Σ_{i<t} (max_{i≤k<t} S[k, i] - S[t, i]): how far each past task lies below its best (Chaudhry et
    al., ECCV 2018, section 3.2); 0 after the first round. At least -BWT_t with the divisor t-1.

    Rounds before a task is learned do not count. Raises ValueError as `overall_performance`.
    """
    return float(_forgetting(until(S, t)))


def forward_transfer(S: Matrix, baseline: Sequence[float], of: Literal["unseen", "learned"] = "unseen") -> float:
    """What learning earlier tasks has done for later ones.

    Args:
        S: rounds by tasks; where `of` is unseen it also has the score S[i-1, i] of each task just before it is learned.
        baseline: a score a task. For unseen tasks the base model's (GEM's b is that of a random one); for learned
            ones those of models that have learned the one task alone.
        of: unseen: 1/(T-1) · Σ_{i≥2} (S[i-1, i] - b_i), GEM's (Lopez-Paz and Ranzato, 2017, equation 4). learned:
            1/T · Σ_i (S[i, i] - a_i), SAPT's (Zhao et al., ACL 2024).

    Raises:
        ValueError: as `overall_performance`; for a baseline of another number of tasks; for fewer than two tasks, or a
            missing score above the diagonal, where these are asked for.
    """
    scores = until(S, None)
    alone = _of_tasks(baseline, len(scores))
    if of == "learned":
        return float(_forward_transfer_to_learned(scores, alone))
    if len(scores) < 2 or not np.isfinite(diagonal(scores, above=1)).all():
        raise ValueError(
            "Forward transfer to unseen tasks needs two tasks, and each one's score just before its round."
        )
    return float(_forward_transfer_to_unseen(scores, alone))


def intransigence(S: Matrix, joint: Sequence[float]) -> float:
    """1/T · Σ_i (a*_i - S[i, i]): how much less is learned of a task than by training on all tasks together, whose
    scores are `joint`, a task each (after Chaudhry et al., ECCV 2018, section 3.2, whose a*_i has learned the tasks
    until i alone). Negative where more is learned. Raises ValueError as `forward_transfer`."""
    scores = until(S, None)
    return float(_intransigence(scores, _of_tasks(joint, len(scores))))


def _of_tasks(values: Sequence[float], tasks: int) -> Floats:
    found = np.array(values, dtype=np.float64)
    if found.shape != (tasks,) or not np.isfinite(found).all():
        raise ValueError(f"There must be a score for each of the {tasks} tasks.")
    return found


# What follows is of one matrix t × t, or of many at once (… × t × t), and of the baseline's scores (… × t).


def _average_performance(scores: Floats) -> Floats:
    rounds = np.arange(1, scores.shape[-1] + 1)
    seen = np.where(_seen(scores), scores, 0)
    return np.asarray((seen.sum(axis=-1) / rounds).mean(axis=-1))


def _forgetting(scores: Floats) -> Floats:
    if scores.shape[-1] == 1:
        return np.zeros(scores.shape[:-2])
    before = np.where(_seen(scores), scores, -np.inf)[..., :-1, :-1]
    return np.asarray((before.max(axis=-2) - scores[..., -1, :-1]).mean(axis=-1))


def _forward_transfer_to_unseen(scores: Floats, base: Floats) -> Floats:
    return np.asarray((diagonal(scores, above=1) - base[..., 1:]).mean(axis=-1))


def _forward_transfer_to_learned(scores: Floats, alone: Floats) -> Floats:
    return np.asarray((diagonal(scores) - alone).mean(axis=-1))


def _intransigence(scores: Floats, joint: Floats) -> Floats:
    return np.asarray((joint - diagonal(scores)).mean(axis=-1))


def _seen(scores: Floats) -> NDArray[np.bool_]:
    """Where the round is not before the task's own."""
    return np.tri(scores.shape[-1], dtype=np.bool_)


FURTHER = (
    Figure(
        "mean OP",
        _average_performance,
        "OP averaged over the rounds, also called average incremental accuracy",
        "1/t · Σ_{k≤t} OP_k",
    ),
    Figure(
        "BWT, t−1",
        backward_transfer_of_past,
        "BWT as in GEM's paper, divided by t − 1",
        "1/(t−1) · Σ_{i<t} (S[t,i] − S[i,i])",
        signed=True,
        of_learned=True,
    ),
    Figure(
        "forgetting",
        _forgetting,
        "how far past tasks lie below their best, after Chaudhry et al. (2018); positive where forgotten",
        "1/(t−1) · Σ_{i<t} (max_{i≤k<t} S[k,i] − S[t,i])",
        signed=True,
        of_learned=True,
    ),
    Figure(
        "FWT, zero-shot",
        _forward_transfer_to_unseen,
        "what earlier tasks did for those not learned yet, above the base model's score b, as in GEM's paper",
        "1/(t−1) · Σ_{2≤i≤t} (S[i−1,i] − b_i)",
        signed=True,
        of_learned=True,
        of_unseen=True,
        needs="zero_shot",
    ),
    Figure(
        "FWT, single-task",
        _forward_transfer_to_learned,
        "how much better a task is learned than by a model ã of that task alone, as in SAPT's paper",
        "1/t · Σ_{i≤t} (S[i,i] − ã_i)",
        signed=True,
        of_learned=True,
        needs="single_task",
    ),
    Figure(
        "intransigence",
        _intransigence,
        "how much worse a task is learned than by a model a* of all tasks together, after Chaudhry et al. (2018)",
        "1/t · Σ_{i≤t} (a*_i − S[i,i])",
        signed=True,
        of_learned=True,
        needs="joint",
    ),
)
"""What other papers report, by their definitions, in the order in which it is shown."""
