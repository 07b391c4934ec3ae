"""Exact match, of whole answers and of first characters. TRACE means the same by it, so the two variants agree."""

from collections.abc import Sequence

from .pairs import Variant, score_each


def accuracy(predictions: Sequence[str], references: Sequence[str], variant: Variant = "standard") -> list[float]:
    """100 where the stripped prediction equals the stripped reference, else 0; one score an example.

    For C-STANCE, FOMC, NumGLUE-cm and NumGLUE-ds (HFT, arXiv 2404.18466, and TRACE, arXiv 2310.06762).

    Raises:
        ValueError: unequal lengths or an unknown variant.
    """
    return score_each(predictions, references, variant, standard=_equal, trace_compat=_equal)


def first_character(
    predictions: Sequence[str], references: Sequence[str], variant: Variant = "standard"
) -> list[float]:
    """100 where the first characters of the stripped texts agree, else 0; one score an example.

    For ScienceQA, whose answers open with the letter of the choice and go on with a reason that TRACE scores apart.

    Raises:
        ValueError: unequal lengths or an unknown variant.
    """
    return score_each(predictions, references, variant, standard=_equal_first, trace_compat=_equal_first)


def _equal(prediction: str, reference: str) -> float:
    return 100.0 * (prediction == reference)


def _equal_first(prediction: str, reference: str) -> float:
    # A model that has forgotten may answer nothing at all: that is a wrong answer, where TRACE's scorer crashes.
    return 100.0 * (prediction != "" and prediction[:1] == reference[:1])
