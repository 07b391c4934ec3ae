"""The interval of a score, held against scipy's."""

import pytest
from scipy.stats import binomtest

from trace_cl.metrics import wilson


@pytest.mark.parametrize(("right", "rows"), [(28, 56), (0, 16), (16, 16), (1, 40), (71, 100), (1, 1)])
def test_it_is_scipys(right: int, rows: int) -> None:
    expected = binomtest(right, rows).proportion_ci(method="wilson")
    assert wilson(100 * right / rows, rows) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-9)


def test_of_56_rows_a_score_of_50_may_be_12_points_off() -> None:
    low, high = wilson(50, 56)
    assert (round(low, 1), round(high, 1)) == (37.3, 62.7)
