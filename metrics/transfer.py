"""Other figures of a sequential run by their authors' definitions; some need scores that its own matrix has not.

All read the matrix S as `matrix` does, where S[t, i] is the score on task i after round t.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .matrix import Matrix, overall_performance, until


def average_performance(S: Matrix, t: int | None = None) -> float:
    """1/t · Σ_{k≤t} OP_k: the mean over rounds of the mean score of the tasks seen, also called incremental accuracy
    (Rebuffi et al., CVPR 2017). Raises ValueError as `overall_performance`."""
    rounds = range(1, len(until(S, t)) + 1)
    return float(np.mean([overall_performance(S, k) for k in rounds]))


def forgetting(S: Matrix, t: int | None = None) -> float:
    """F_t = 1/(t-1) · Σ_{i<t} (max_{i≤k<t} S[k, i] - S[t, i]): how far each past task lies below its best (Chaudhry et
    al., ECCV 2018, section 3.2); 0 after the first round. At least -BWT_t with the divisor t-1.

    Rounds before a task is learned do not count. Raises ValueError as `overall_performance`.
    """
    scores = until(S, t)
    last = len(scores) - 1
    return float(np.mean([scores[i:last, i].max() - scores[last, i] for i in range(last)])) if last else 0.0


def forward_transfer(S: Matrix, baseline: Sequence[float], of: Literal["unseen", "learned"] = "unseen") -> float:
    """What learning earlier tasks has done for later ones.

    Args:
        S: rounds by tasks; where `of` is unseen it also has the score S[i-1, i] of each task just before it is learned.
        baseline: a score a task. For unseen tasks the untouched model's (GEM's b is that of a random one); for learned
            ones those of models that have learned the one task alone.
        of: unseen: 1/(T-1) · Σ_{i≥2} (S[i-1, i] - b_i), GEM's (Lopez-Paz and Ranzato, 2017, equation 4). learned:
            1/T · Σ_i (S[i, i] - a_i), SAPT's (Zhao et al., ACL 2024).

    Raises:
        ValueError: as `overall_performance`; for a baseline of another number of tasks; for fewer than two tasks, or a
            missing score above the diagonal, where these are asked for.
    """
    scores = until(S, None)
    before = _of_tasks(baseline, len(scores))
    if of == "learned":
        return float((scores.diagonal() - before).mean())
    unseen = np.array(S, dtype=np.float64)[: len(scores), : len(scores)].diagonal(1)
    if not len(unseen) or not np.isfinite(unseen).all():
        raise ValueError(
            "Forward transfer to unseen tasks needs two tasks, and each one's score just before its round."
        )
    return float((unseen - before[1:]).mean())


def intransigence(S: Matrix, joint: Sequence[float]) -> float:
    """1/T · Σ_i (a*_i - S[i, i]): how much less is learned of a task than by training on all tasks together, whose
    scores are `joint`, a task each (after Chaudhry et al., ECCV 2018, section 3.2, whose a*_i has learned the tasks
    until i alone). Negative where more is learned. Raises ValueError as `forward_transfer`."""
    scores = until(S, None)
    return float((_of_tasks(joint, len(scores)) - scores.diagonal()).mean())


def _of_tasks(values: Sequence[float], tasks: int) -> NDArray[np.float64]:
    found = np.array(values, dtype=np.float64)
    if found.shape != (tasks,) or not np.isfinite(found).all():
        raise ValueError(f"There must be a score for each of the {tasks} tasks.")
    return found
