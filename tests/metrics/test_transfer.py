"""The other figures of a matrix, worked by hand, and what ties them to OP and BWT."""

from pathlib import Path

import numpy as np
import pytest

from trace_cl.metrics import (
    average_performance,
    backward_transfer,
    forgetting,
    forward_transfer,
    intransigence,
    learned,
    overall_performance,
)
from trace_cl.records.files import PUBLISHED, read_matrix

S = [[80.0, 10.0, 5.0], [90.0, 60.0, 25.0], [50.0, 40.0, 70.0]]


def test_worked_by_hand() -> None:
    # OP after each round: 80, 75, 160/3.
    assert average_performance(S) == pytest.approx((80 + 75 + 160 / 3) / 3)
    # Task 1 was at its best after round 2 and lost 40 since, task 2 lost 20.
    assert forgetting(S) == 30
    assert [forgetting(S, 1), forgetting(S, 2)] == [0, -10]
    assert backward_transfer(S, divisor="t-1") == (-30 - 20) / 2
    assert [backward_transfer(S, 1, "t-1"), backward_transfer(S, 2, "t-1")] == [0, 10]
    # Just before its round task 2 stood at 10, task 3 at 25.
    assert forward_transfer(S, [0, 4, 5]) == (6 + 20) / 2
    assert forward_transfer(S, [70, 70, 70], of="learned") == (10 - 10 + 0) / 3
    assert intransigence(S, [85, 75, 65]) == (5 + 15 - 5) / 3


@pytest.mark.parametrize("path", sorted(PUBLISHED.glob("*/*/matrix.csv")), ids=lambda path: "/".join(path.parts[-3:-1]))
def test_identities_on_the_published_matrices(path: Path) -> None:
    matrix = read_matrix(path)
    of_t, of_less = backward_transfer(matrix), backward_transfer(matrix, divisor="t-1")
    assert overall_performance(matrix) == pytest.approx(learned(matrix) + of_t)
    assert of_less == pytest.approx(of_t * 8 / 7)
    assert forgetting(matrix) >= -of_less - 1e-9
    assert forward_transfer(matrix, [0] * 8, of="learned") == pytest.approx(learned(matrix))


@pytest.mark.parametrize(
    ("scores", "baseline", "said"),
    [
        (S, [1.0], "a score for each of the 3 tasks"),
        (S, [1.0, np.nan, 2.0], "a score for each of the 3 tasks"),
        ([[80.0, None], [50.0, 90.0]], [0.0, 0.0], "each one's score just before its round"),
        ([[80.0]], [0.0], "needs two tasks"),
    ],
)
def test_what_is_missing_is_said(scores: list[list[float | None]], baseline: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        forward_transfer(scores, baseline)
