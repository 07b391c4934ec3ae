"""Edit similarity of two lines of code, for Py150."""

import re
from collections.abc import Sequence

from rapidfuzz.distance import Indel

from .pairs import Variant, score_each

_BARE_LITERALS = {"<NUM_LIT>": "0", "<STR_LIT>": "", "<CHAR_LIT>": ""}
_LITERAL_WITH_VALUE = re.compile(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", re.DOTALL)


def similarity(predictions: Sequence[str], references: Sequence[str], variant: Variant = "standard") -> list[float]:
    """100 · (1 - d / (m + n)) of texts of m and n characters, d insertions and deletions apart; one score an example.

    Literal markers are resolved first, as CodeXGLUE and TRACE do: `<STR_LIT:x>` and `<NUM_LIT:x>` become x, a bare
    `<NUM_LIT>` becomes 0, a bare `<STR_LIT>` nothing. Two texts of which nothing is left are equal and score 100.

    `trace_compat` rounds to a whole number, as `fuzzywuzzy.fuzz.ratio` with its C extension does, and gives 0
    where either text is empty, both included: TRACE leaves such pairs out of its sum but not out of its count. Markers
    are resolved one after the other, each wherever it stands by then: that tells where one holds another.

    Raises:
        ValueError: unequal lengths or an unknown variant.
    """
    return score_each(predictions, references, variant, standard=_ratio, trace_compat=_rounded_ratio)


def _resolve_literals(code: str) -> str:
    for marker, value in _BARE_LITERALS.items():
        code = code.replace(marker, value)
    # Stripped again: a marker at either end may leave a blank there.
    return _LITERAL_WITH_VALUE.sub(r"\1", code).strip()


def _resolve_one_by_one(code: str) -> str:
    for marker, value in _BARE_LITERALS.items():
        code = code.replace(marker, value)
    for found in _LITERAL_WITH_VALUE.finditer(code):
        code = code.replace(found[0], found[1])
    return code


def _ratio(prediction: str, reference: str) -> float:
    return 100.0 * Indel.normalized_similarity(_resolve_literals(prediction), _resolve_literals(reference))


def _rounded_ratio(prediction: str, reference: str) -> float:
    resolved, expected = _resolve_one_by_one(prediction), _resolve_one_by_one(reference)
    if not (resolved and expected):
        return 0.0
    return float(round(100.0 * Indel.normalized_similarity(resolved, expected)))
