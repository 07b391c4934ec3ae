"""Exact match, of whole answers and of first characters."""

from collections.abc import Sequence

from .pairs import Variant, score_each, settled_when


def _wrong_for_good(text: str, reference: str) -> bool:
    # Blanks at the end settle nothing: they may be stripped. What stays wrong when stripped stays wrong unstripped.
    begun, wanted = text.lstrip(), reference.strip()
    return not (wanted.startswith(begun) or wanted == begun.rstrip())


@settled_when(_wrong_for_good)
def accuracy(predictions: Sequence[str], references: Sequence[str], variant: Variant = "standard") -> list[float]:
    """100 where the prediction equals the reference, else 0; one score an example.

    For C-STANCE, FOMC, NumGLUE-cm and NumGLUE-ds (HFT, arXiv 2404.18466, and TRACE, arXiv 2310.06762). Blanks around
    them do not count; under `trace_compat` they do, and an empty answer is always wrong.

    Raises:
        ValueError: unequal lengths or an unknown variant.
    """
    return score_each(predictions, references, variant, standard=_equal, trace_compat=_equal_and_something)


def _has_begun(text: str, reference: str) -> bool:
    return text.strip() != ""


@settled_when(_has_begun)
def first_character(
    predictions: Sequence[str], references: Sequence[str], variant: Variant = "standard"
) -> list[float]:
    """100 where the first characters agree, else 0; one score an example.

    For ScienceQA, whose answers open with the letter of the choice and go on with a reason that TRACE scores apart.
    Blanks around them do not count; under `trace_compat` they do.

    Raises:
        ValueError: unequal lengths or an unknown variant.
    """
    return score_each(predictions, references, variant, standard=_equal_first, trace_compat=_equal_first)


def _equal(prediction: str, reference: str) -> float:
    return 100.0 * (prediction == reference)


def _equal_and_something(prediction: str, reference: str) -> float:
    return 100.0 * (prediction == reference != "")


def _equal_first(prediction: str, reference: str) -> float:
    # A model that has forgotten may answer nothing at all: that is a wrong answer, where TRACE's scorer crashes.
    return 100.0 * (prediction != "" and prediction[:1] == reference[:1])
