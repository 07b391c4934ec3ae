"""What every scorer promises, whatever it measures."""

from typing import Any

import pytest

from trace_cl import metrics
from trace_cl.metrics import METRICS, VARIANTS, Metric, Variant

# SARI needs the prompts too: what it gives is held against others' figures in test_sari.py.
WITHOUT_PROMPTS = {name: metric for name, metric in METRICS.items() if name != "sari"}
each_metric = pytest.mark.parametrize("metric", WITHOUT_PROMPTS.values(), ids=WITHOUT_PROMPTS.keys())
each_variant = pytest.mark.parametrize("variant", VARIANTS)


@each_metric
@each_variant
def test_one_score_an_example_and_blanks_around_do_not_count(metric: Metric, variant: Variant) -> None:
    scores = metric(["  B because\n", "", "C"], ["B because ", "B because", "D"], variant)
    assert scores == pytest.approx([100.0, 0.0, 0.0], abs=1e-5)
    assert all(isinstance(score, float) for score in scores)


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
