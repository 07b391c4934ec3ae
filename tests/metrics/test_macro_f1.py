"""Macro-F1 by hand, and against precision and recall counted in a confusion matrix."""

import random

import numpy as np
import pytest

from trace_cl.metrics import accuracy, macro_f1


def test_by_hand() -> None:
    """A: 1 hit, 1 false alarm, F1 2/3; B: 1 hit of 2, F1 2/3; C: none, 0. The answer "x" is no class and adds none."""
    predictions, references = ["A", " A\n", "B", "x"], ["A", "B", "B", "C"]
    assert macro_f1.corpus(predictions, references) == pytest.approx(100 * (2 / 3 + 2 / 3 + 0) / 3)
    assert macro_f1(predictions, references) == [100.0, 0.0, 100.0, 0.0]


def test_it_is_not_the_mean_of_the_scores() -> None:
    predictions, references = ["A"] * 10, ["A"] * 9 + ["B"]
    assert np.mean(accuracy(predictions, references)) == 90
    assert macro_f1.corpus(predictions, references) == pytest.approx(100 * (18 / 19 + 0) / 2)


def test_random_classes_against_a_confusion_matrix() -> None:
    draw, names = random.Random(0), "ABCD"
    for _ in range(50):
        size = draw.randint(1, 40)
        predictions, references = draw.choices(names + "?", k=size), draw.choices(names, k=size)
        confusion = np.zeros((5, 5))
        for prediction, reference in zip(predictions, references, strict=True):
            confusion[(names + "?").index(reference), (names + "?").index(prediction)] += 1
        scores = []
        for row in (row for row in range(4) if confusion[row].any()):
            hits = confusion[row, row]
            precision, recall = hits / max(1, confusion[:, row].sum()), hits / confusion[row].sum()
            scores.append(2 * precision * recall / (precision + recall) if hits else 0)
        assert macro_f1.corpus(predictions, references) == pytest.approx(100 * np.mean(scores))


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one example"):
        macro_f1.corpus([], [])
