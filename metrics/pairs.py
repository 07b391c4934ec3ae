"""What all scorers share: the two variants, the pairing of predictions with references, and the stripped blanks."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

Variant = Literal["standard", "trace_compat"]
"""`standard` is this project's own; `trace_compat` is what the scorers in the repository of TRACE (arXiv 2310.06762)
give for the same stripped texts. TRACE itself strips nothing."""

VARIANTS: tuple[Variant, ...] = get_args(Variant)

PairScore = Callable[[str, str], float]
"""Scores one stripped prediction against one stripped reference, 0 to 100."""


Metric = Callable[..., list[float]]
"""A scorer: n predictions and n references give n scores from 0 to 100. It may also name `variant` and `prompts` (n
texts) among its arguments, and is then told; and it may have a method `corpus` with the same arguments, whose one
figure then stands for all examples in the place of their mean."""


def score_each(
    predictions: Sequence[str],
    references: Sequence[str],
    variant: Variant,
    *,
    standard: PairScore,
    trace_compat: PairScore,
) -> list[float]:
    """Strip surrounding blanks and score each prediction against its reference with the chosen variant.

    Raises:
        ValueError: the two differ in length, or the variant is unknown.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions cannot be scored against {len(references)} references.")
    if variant not in VARIANTS:
        raise ValueError(f"Unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}.")
    score = standard if variant == "standard" else trace_compat
    return [
        score(prediction.strip(), reference.strip())
        for prediction, reference in zip(predictions, references, strict=True)
    ]
