"""Which numbers a setting may be, and how another is refused."""

import math

import pytest

from trace_cl.strategies.settings import BELOW_ONE, COUNT, NOT_NEGATIVE, POSITIVE, SHARE, Range

INFINITY = math.inf


@pytest.mark.parametrize(
    ("range", "allowed", "refused"),
    [
        (COUNT, (1, 2, 10**30), (0, -1, INFINITY, True)),
        (POSITIVE, (5e-324, 1.0), (0.0, -5e-324, INFINITY, -INFINITY, math.nan)),
        (NOT_NEGATIVE, (0, 0.0, 1e300), (-5e-324, INFINITY, math.nan, "1", None)),
        (SHARE, (0, 0.5, 1), (-0.1, math.nextafter(1, 2), math.nan)),
        (BELOW_ONE, (0, math.nextafter(1, 0)), (1, 1.0, -0.1, math.nan)),
        (Range(0, 2**53), (0, 2**53), (-1, 2**53 + 1, 2**63)),
    ],
)
def test_the_ends_of_a_range(range: Range, allowed: tuple[float, ...], refused: tuple[float, ...]) -> None:
    for value in allowed:
        range.check("key", value)
    for value in refused:
        with pytest.raises(ValueError, match=f"key={value} must be "):
            range.check("key", value)


@pytest.mark.parametrize(
    ("range", "value", "sentence"),
    [
        (COUNT, 0, "key=0 must be at least 1"),
        (POSITIVE, 0.0, "key=0.0 must be greater than 0"),
        (SHARE, 2.0, "key=2.0 must be between 0 and 1"),
        (BELOW_ONE, 1.0, "key=1.0 must be at least 0 and less than 1"),
        (POSITIVE, INFINITY, "key=inf must be finite, and greater than 0"),
        (COUNT, "two", "key=two must be a number at least 1"),
    ],
)
def test_what_is_said(range: Range, value: float, sentence: str) -> None:
    with pytest.raises(ValueError, match=r"^key") as refused:
        range.check("key", value)
    assert str(refused.value) == sentence
