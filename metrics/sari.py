"""SARI, for simplification: what an answer keeps, deletes and adds of its source, held against the reference."""

import re
from collections import Counter
from collections.abc import Sequence

from .pairs import Variant, score_each

ORDERS = (1, 2, 3, 4)
"""Lengths of the n-grams."""


def sari(
    predictions: Sequence[str], references: Sequence[str], variant: Variant = "standard", *, prompts: Sequence[str]
) -> list[float]:
    """SARI (Xu et al. 2016, TACL 4, section 4) of each answer, 0 to 100, as EASSE and the authors' own script have it.

    The mean over n-grams of 1 to 4 words of three parts: F1 of what is kept, precision of what is deleted, F1 of what
    is added. The source is the whole prompt, instruction included, as TRACE's scorer takes it; where it should be less,
    hand over less from a metric of your own. TRACE means the same by it, so the two variants agree.

    Raises:
        ValueError: unequal lengths or an unknown variant.
    """
    if len(prompts) != len(predictions):
        raise ValueError(f"{len(predictions)} predictions cannot be scored against {len(prompts)} prompts.")
    sources = iter(prompts)

    def score(prediction: str, reference: str) -> float:
        return score_tokens(tokenize(next(sources)), tokenize(prediction), [tokenize(reference)])

    return score_each(predictions, references, variant, standard=score, trace_compat=score)


def tokenize(text: str) -> list[str]:
    """Lower-cased words and punctuation marks, as NIST's mteval-v13a cuts them, which published figures rest on."""
    text = f" {text.lower()} "
    text = re.sub(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])", r" \1 ", text)  # ASCII's marks but . , - '
    text = re.sub(r"([^0-9])([\.,])", r"\1 \2 ", text)  # . and , but between digits
    text = re.sub(r"([\.,])([^0-9])", r" \1 \2", text)
    return re.sub(r"([0-9])(-)", r"\1 \2 ", text).split()


def score_tokens(source: Sequence[str], prediction: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """SARI of one answer, 0 to 100, against one or more references."""
    parts = [part for n in ORDERS for part in _parts(source, prediction, references, n)]
    return 100.0 * sum(parts) / len(parts)


def _parts(
    source: Sequence[str], prediction: Sequence[str], references: Sequence[Sequence[str]], n: int
) -> tuple[float, float, float]:
    """F1 of keeping, precision of deleting, F1 of adding, for n-grams of one length; 0/0 is 1.

    An n-gram of the source or the prediction counts once for each reference: it may be right by one and wrong by the
    next.
    """
    before, after = (
        Counter({gram: count * len(references) for gram, count in _ngrams(words, n).items()})
        for words in (source, prediction)
    )
    expected = sum((_ngrams(reference, n) for reference in references), Counter[tuple[str, ...]]())

    kept, to_keep = before & after, before & expected
    rightly_kept = kept & expected
    keep = _f1(
        _mean_share(rightly_kept, kept),
        rightly_kept.total() / to_keep.total() if to_keep else 1.0,
    )
    deleted = before - after
    delete = _mean_share(deleted - expected, deleted)
    added, to_add = set(after) - set(before), set(expected) - set(before)
    rightly_added = len(added & set(expected))
    add = _f1(rightly_added / len(added) if added else 1.0, rightly_added / len(to_add) if to_add else 1.0)
    return keep, delete, add


def _ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _mean_share(part: Counter[tuple[str, ...]], whole: Counter[tuple[str, ...]]) -> float:
    """The mean, over the different n-grams of `whole`, of the share of their counts that `part` has."""
    return sum(part[gram] / count for gram, count in whole.items()) / len(whole) if whole else 1.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
