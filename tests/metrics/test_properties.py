"""What holds of every score and every figure."""

from math import fsum, isclose
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_cl.metrics import (
    METRICS,
    VARIANTS,
    Metric,
    backward_transfer,
    figures,
    is_of_corpus,
    learned,
    overall_performance,
    score_answers,
    score_corpus,
)

TEXT = st.text("abA. \n,1é是<>_LITSR:\x1f", max_size=20) | st.text(max_size=12)
COLUMN = st.integers(1, 6).flatmap(lambda n: st.tuples(*[st.lists(TEXT, min_size=n, max_size=n)] * 3))
each_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


@each_metric
@settings(max_examples=100, deadline=None)
@given(columns=COLUMN)
def test_scores_and_figures_are_between_0_and_100(metric: Metric, columns: tuple[list[str], ...]) -> None:
    predictions, references, prompts = columns
    for variant in VARIANTS:
        scores = score_answers(metric, predictions, references, prompts, variant)
        assert len(scores) == len(columns[0])
        figure = score_corpus(metric, predictions, references, prompts, variant, scores)
        assert all(0 <= value <= 100 for value in [*scores, figure])
        if not is_of_corpus(metric):
            assert figure == fsum(scores) / len(scores)
        alone = zip(predictions, references, prompts, scores, strict=True)
        assert all(score_answers(metric, [p], [r], [q], variant) == [score] for p, r, q, score in alone)


@each_metric
@settings(max_examples=100, deadline=None)
@given(references=st.lists(TEXT.map(lambda text: f"w{text}w"), min_size=1, max_size=6))
def test_the_reference_itself_scores_100(metric: Metric, references: list[str]) -> None:
    # Different words: where a prompt has one twice and the reference once, SARI by definition counts the loss as wrong.
    prompts = ["a b 1 é 是"] * len(references)
    for variant in VARIANTS:
        scores = score_answers(metric, references, references, prompts, variant)
        figure = score_corpus(metric, references, references, prompts, variant, scores)
        assert [*scores, figure] == pytest.approx([100.0] * (len(references) + 1), abs=1e-5)


@st.composite
def matrices(draw: Any) -> list[list[float | None]]:
    """Rounds by tasks, some rounds not run yet, nothing above the diagonal."""
    tasks = draw(st.integers(1, 8))
    done = draw(st.integers(1, tasks))
    score = st.floats(0, 100)
    return [[draw(score) if task <= round < done else None for task in range(tasks)] for round in range(tasks)]


@given(S=matrices())
def test_what_is_left_is_what_was_learned_and_what_became_of_it(S: list[list[float | None]]) -> None:
    done = sum(row[0] is not None for row in S)
    of_all = figures(S)
    for t in range(1, done + 1):
        assert isclose(overall_performance(S, t), learned(S, t) + backward_transfer(S, t), abs_tol=1e-9)
        row = [float(value or 0) for value in S[t - 1][:t]]
        assert isclose(overall_performance(S, t), fsum(row) / t, abs_tol=1e-9)
        assert of_all["OP"][t - 1] == overall_performance(S, t)
    assert len(of_all["OP"]) == done
    assert backward_transfer(S, 1) == 0
