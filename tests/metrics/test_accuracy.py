"""Exact match, case by case; under `trace_compat` as TRACE compares, character by character."""

import pytest

from trace_cl.metrics import accuracy, first_character


@pytest.mark.parametrize(
    ("prediction", "reference", "score", "trace_compat"),
    [
        ("A", "A", 100.0, 100.0),
        (" A\n", "A", 100.0, 0.0),
        ("A", "A\n", 100.0, 0.0),
        ("A\n", "A\n", 100.0, 100.0),
        ("a", "A", 0.0, 0.0),
        ("A.", "A", 0.0, 0.0),
        ("12", "12.0", 0.0, 0.0),
        ("", "A", 0.0, 0.0),
        ("", "", 100.0, 0.0),
        ("支持", "支持", 100.0, 100.0),
    ],
)
def test_accuracy(prediction: str, reference: str, score: float, trace_compat: float) -> None:
    assert accuracy([prediction], [reference]) == [score]
    assert accuracy([prediction], [reference], "trace_compat") == [trace_compat]


@pytest.mark.parametrize(
    ("prediction", "reference", "score", "trace_compat"),
    [
        ("B", "B\nA clause is a group of words.", 100.0, 100.0),
        ("B: for another reason", "B\nA clause is a group of words.", 100.0, 100.0),
        ("\n B", "B\nA clause", 100.0, 0.0),
        ("\nB", "\nA", 0.0, 100.0),
        ("A\nA clause is a group of words.", "B\nA clause is a group of words.", 0.0, 0.0),
        ("b", "B", 0.0, 0.0),
        ("", "B\nA clause", 0.0, 0.0),
        ("  \n", "B\nA clause", 0.0, 0.0),
        ("", "", 0.0, 0.0),
    ],
)
def test_first_character(prediction: str, reference: str, score: float, trace_compat: float) -> None:
    assert first_character([prediction], [reference]) == [score]
    assert first_character([prediction], [reference], "trace_compat") == [trace_compat]
