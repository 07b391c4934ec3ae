"""How a metric is asked, with what it wants to know: for the scores of single answers, and for the figure of all."""

from collections.abc import Callable, Iterable, Sequence
from inspect import signature
from math import fsum
from typing import Any

from .pairs import Metric, Variant


def score_answers(
    metric: Metric, predictions: Sequence[str], references: Sequence[str], prompts: Sequence[str], variant: Variant
) -> list[float]:
    """The scores of n answers to n prompts, 0 to 100."""
    return list(_ask(metric, predictions, references, prompts, variant))


def score_corpus(
    metric: Metric,
    predictions: Sequence[str],
    references: Sequence[str],
    prompts: Sequence[str],
    variant: Variant,
    scores: Sequence[float],
) -> float:
    """The figure of all answers together, 0 to 100: the mean of their scores, or what the metric's `corpus` says.

    F1 over classes, say, is no mean over examples.
    """
    if is_of_corpus(metric):
        return float(_ask(metric.corpus, predictions, references, prompts, variant))  # type: ignore[attr-defined]
    return fsum(scores) / len(scores)


def is_of_corpus(metric: Metric) -> bool:
    """Whether the figure of all answers is something else than the mean of their scores."""
    return hasattr(metric, "corpus")


Settled = Callable[[str], bool]
"""Whether an answer that begins with this text has its score, whatever follows."""


def settled_by(metric: Metric, references: Iterable[str]) -> Settled | None:
    """When an answer is settled whichever of a task's references it is held against; None where every word counts.

    All references, because a strategy may ask in another order, and other prompts than those of the task.
    """
    rule = getattr(metric, "settled", None)
    if rule is None:
        return None
    different = sorted(set(references))
    return lambda text: all(rule(text, reference) for reference in different)


def _ask(
    function: Callable[..., Any],
    predictions: Sequence[str],
    references: Sequence[str],
    prompts: Sequence[str],
    variant: Variant,
) -> Any:
    """Call a metric, or its `corpus`, with `prompts` and `variant` where it names them among its arguments."""
    named = signature(function).parameters
    extras = {key: value for key, value in (("prompts", prompts), ("variant", variant)) if key in named}
    return function(predictions, references, **extras)
