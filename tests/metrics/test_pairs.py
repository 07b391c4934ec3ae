"""What every scorer promises, whatever it measures."""

from typing import Any

import pytest

from trace_cl import metrics
from trace_cl.metrics import METRICS, Metric

# SARI needs the prompts too: what it gives is held against others' figures in test_sari.py.
WITHOUT_PROMPTS = {name: metric for name, metric in METRICS.items() if name != "sari"}
each_metric = pytest.mark.parametrize("metric", WITHOUT_PROMPTS.values(), ids=WITHOUT_PROMPTS.keys())


@each_metric
def test_one_score_an_example_and_blanks_around_do_not_count(metric: Metric) -> None:
    scores = metric(["  B because\n", "", "C"], ["B because ", "B because", "D"])
    assert scores == pytest.approx([100.0, 0.0, 0.0], abs=1e-5)
    assert all(isinstance(score, float) for score in scores)


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("accuracy", 0.0),
        ("first_character", 0.0),
        ("macro_f1", 0.0),
        ("similarity", 95.0),  # 9 of 10 and 9 of 9 characters: 2 · 9 / 19 = 94.7, rounded
        ("rouge_l", 100.0),  # words have no blanks
    ],
)
def test_trace_strips_nothing(name: str, score: float) -> None:
    assert METRICS[name]([" B because"], ["B because"], "trace_compat") == pytest.approx([score], abs=1e-5)


def test_a_class_is_named_by_the_very_text_where_trace_scores() -> None:
    columns = ["A", "B "], ["A", "B"]
    assert METRICS["macro_f1"].corpus(*columns) == 100  # type: ignore[attr-defined]
    assert METRICS["macro_f1"].corpus(*columns, "trace_compat") == 50  # type: ignore[attr-defined]


@each_metric
def test_standard_is_the_default(metric: Metric) -> None:
    predictions, references = ["a b c b a d"], ["d b a b c e e"]
    assert metric(predictions, references) == metric(predictions, references, "standard")


@pytest.mark.parametrize("name", ["similarity", "rouge_l"])
def test_the_variants_differ_where_trace_does(name: str) -> None:
    predictions, references = ["a b c b a d"], ["d b a b c e e"]
    assert METRICS[name](predictions, references) != METRICS[name](predictions, references, "trace_compat")


@each_metric
def test_no_examples_give_no_scores(metric: Metric) -> None:
    assert metric([], []) == []


@each_metric
def test_unequal_lengths_are_refused(metric: Metric) -> None:
    with pytest.raises(ValueError, match="2 predictions cannot be scored against 1 references"):
        metric(["a", "b"], ["a"])


@each_metric
def test_an_unknown_variant_is_refused_even_with_nothing_to_score(metric: Metric) -> None:
    unknown: Any = "trace"
    with pytest.raises(ValueError, match="'trace': choose one of standard, trace_compat"):
        metric([], [], unknown)


def test_the_registry_holds_the_exported_scorers() -> None:
    assert {name: getattr(metrics, name) for name in METRICS} == METRICS
