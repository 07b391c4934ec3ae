"""Exact match, case by case."""

import pytest

from trace_cl.metrics import VARIANTS, Variant, accuracy, first_character

each_variant = pytest.mark.parametrize("variant", VARIANTS)


@each_variant
@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("A", "A", 100.0),
        (" A\n", "A", 100.0),
        ("a", "A", 0.0),
        ("A.", "A", 0.0),
        ("12", "12.0", 0.0),
        ("", "A", 0.0),
        ("支持", "支持", 100.0),
    ],
)
def test_accuracy(prediction: str, reference: str, score: float, variant: Variant) -> None:
    assert accuracy([prediction], [reference], variant) == [score]


@each_variant
@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("B", "B\nA clause is a group of words.", 100.0),
        ("B: for another reason", "B\nA clause is a group of words.", 100.0),
        ("\n B", "B\nA clause", 100.0),
        ("A\nA clause is a group of words.", "B\nA clause is a group of words.", 0.0),
        ("b", "B", 0.0),
        ("", "B\nA clause", 0.0),
        ("  \n", "B\nA clause", 0.0),
        ("", "", 0.0),
    ],
)
def test_first_character(prediction: str, reference: str, score: float, variant: Variant) -> None:
    assert first_character([prediction], [reference], variant) == [score]
