"""What all scorers share: the two variants, the pairing of predictions with references, and which blanks count."""

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar, get_args

Variant = Literal["standard", "trace_compat"]
"""`standard` is this project's own: blanks around a text do not count. `trace_compat` is what the scorers in TRACE's
repository (arXiv 2310.06762) give for the very texts: they strip nothing."""

VARIANTS: tuple[Variant, ...] = get_args(Variant)

PairScore = Callable[[str, str], float]
"""Scores one prediction against one reference, 0 to 100."""

Metric = Callable[..., list[float]]
"""A scorer: n predictions and n references give n scores from 0 to 100. It may also name `variant` and `prompts` (n
texts) among its arguments, and is then told. It may have a method `corpus` with the same arguments, whose one figure
then stands for all examples in the place of their mean; and a rule that says when an answer is `settled`."""

SettledRule = Callable[[str, str], bool]
"""Whether every answer that begins with a text has the same score against a reference, by either variant, whatever
follows. A rule that says no too often costs time; one that says yes too often makes scores wrong."""

M = TypeVar("M", bound=Metric)


def settled_when(rule: SettledRule) -> Callable[[M], M]:
    """Give a metric this rule, as its attribute `settled`: answers need not be generated any further than that."""

    def give(metric: M) -> M:
        metric.settled = rule  # type: ignore[attr-defined]
        return metric

    return give


def score_each(
    predictions: Sequence[str],
    references: Sequence[str],
    variant: Variant,
    *,
    standard: PairScore,
    trace_compat: PairScore,
) -> list[float]:
    """Score each prediction against its reference with the chosen variant; the standard one strips both first.

    Raises:
        ValueError: the two differ in length, or the variant is unknown.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions cannot be scored against {len(references)} references.")
    if variant not in VARIANTS:
        raise ValueError(f"Unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}.")
    pairs = zip(predictions, references, strict=True)
    if variant == "standard":
        return [standard(prediction.strip(), reference.strip()) for prediction, reference in pairs]
    return [trace_compat(prediction, reference) for prediction, reference in pairs]
