"""OP and BWT, worked by hand."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from trace_cl.metrics import FIGURES, backward_transfer, figures, learned, overall_performance
from trace_cl.metrics.matrix import Matrix

ROWS: list[list[float | None]] = [[80.0, None, None], [50.0, 90.0, None], [20.0, 60.0, 70.0]]


@pytest.mark.parametrize(
    "S",
    [ROWS, np.array(ROWS, dtype=float), pd.DataFrame(ROWS, columns=["a", "b", "c"], index=[1, 2, 3])],
    ids=["lists", "numpy", "pandas"],
)
def test_worked_by_hand(S: Matrix) -> None:
    assert [overall_performance(S, t) for t in (1, 2, 3)] == [80.0, 70.0, 50.0]
    # Round 2 lost 30 on one of two tasks; round 3 has lost 60 and 30 on two of three.
    assert [backward_transfer(S, t) for t in (1, 2, 3)] == [0.0, -15.0, -30.0]
    assert (overall_performance(S), backward_transfer(S)) == (50.0, -30.0)
    assert [learned(S, t) for t in (1, 2, 3)] == [80.0, 85.0, 80.0]


def test_all_figures_after_every_finished_round() -> None:
    unfinished: list[list[float | None]] = [*ROWS[:2], [None, None, None]]
    assert figures(unfinished) == {"OP": [80, 70], "BWT": [0, -15], "learned": [80, 85]}


def test_from_a_round_that_trained_nothing_on_there_is_no_score_just_after_learning() -> None:
    assert figures(ROWS, untrained=[2]) == {
        "OP": [80, 70, 50],
        "BWT": [0, None, None],
        "learned": [80, None, None],
    }
    assert figures(ROWS, untrained=[3, 1])["BWT"] == [None, None, None]


def test_names_are_unlike() -> None:
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)


@pytest.mark.parametrize(
    "S",
    [ROWS[:2], [*ROWS[:2], [None, None, None]], [*ROWS[:2], [40.0, 40.0, None]]],
    ids=["no row yet", "an empty row", "a row half evaluated"],
)
def test_the_default_is_the_last_finished_round(S: Matrix) -> None:
    assert (overall_performance(S), backward_transfer(S)) == (70.0, -15.0)


def test_scores_above_the_diagonal_and_of_later_rounds_do_not_count() -> None:
    S = [[80.0, 1.0, 2.0], [50.0, 90.0, 3.0], [20.0, 60.0, 70.0]]
    assert (overall_performance(S, 2), backward_transfer(S, 2)) == (70.0, -15.0)


@pytest.mark.parametrize("figure", [overall_performance, backward_transfer, learned])
@pytest.mark.parametrize(
    ("S", "t", "message"),
    [
        ([[80.0], [50.0, 90.0]], None, "rows of equal length"),
        ([["high"]], None, "must hold numbers"),
        ([80.0, 90.0], None, "1 dimension"),
        ([], None, "1 dimension"),
        ([[None, None], [None, None]], None, "no round 0"),
        (ROWS, 0, "no round 0"),
        (ROWS, -1, "no round -1"),
        (ROWS, 4, "3 rounds and 3 tasks has no round 4"),
        ([[80.0, None], [None, 90.0]], None, "lacks a score .* first 2 rounds"),
        ([[None, None], [50.0, 90.0]], 2, "lacks a score .* first 2 rounds"),
        ([*ROWS[:2], [None, None, None]], 3, "lacks a score .* first 3 rounds"),
    ],
)
def test_an_unusable_matrix_is_refused(
    figure: Callable[[Matrix, int | None], float], S: Matrix, t: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        figure(S, t)
