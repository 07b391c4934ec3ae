"""ROUGE-L of two texts, for MeetingBank and 20Minuten: the standard one, and the other one that TRACE reports."""

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

import regex

from .pairs import Variant, score_each

# Chinese and Japanese put no blanks between words, so there a character has to stand for a word.
_WORD = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}]|[[\p{L}\p{M}\p{N}]--[\p{Han}\p{Hiragana}\p{Katakana}]]+", regex.VERSION1
)


def rouge_l(predictions: Sequence[str], references: Sequence[str], variant: Variant = "standard") -> list[float]:
    """100 · F1 of the longest common subsequence of words; one score an example.

    `standard` is `rouge-score`'s `rougeL` (Lin 2004, section 3.1) without stemming, with `UnicodeTokenizer`. A text
    without a word scores 0.

    `trace_compat` is what TRACE gets from the package `rouge` 1.0.1: the union LCS of Lin 2004, section 3.2, counted
    in *distinct* words of sentences cut at full stops. An empty prediction, which the package refuses, scores 0.

    Raises:
        ValueError: unequal lengths or an unknown variant.
    """
    return score_each(predictions, references, variant, standard=_standard, trace_compat=_trace_compat)


class UnicodeTokenizer:
    """Lower-cased words in any script: runs of letters, digits and their marks; a Chinese or Japanese character each.

    `rouge-score`'s own knows [a-z0-9] alone: it cuts `Für` into `f r` and loses Chinese altogether. On unaccented
    English the two agree.
    """

    def tokenize(self, text: str) -> list[str]:
        """The words of a text, in order."""
        # `ü` may come as one code point or as two, and looks the same.
        return _WORD.findall(unicodedata.normalize("NFC", text.lower()))


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # it brings nltk, which takes a second to import

    return RougeScorer(["rougeL"], tokenizer=UnicodeTokenizer())


def _standard(prediction: str, reference: str) -> float:
    return 100.0 * float(_scorer().score(reference, prediction)["rougeL"].fmeasure)


def _trace_compat(prediction: str, reference: str) -> float:
    predicted, expected = _sentences(prediction), _sentences(reference)
    if not predicted or not expected:
        return 0.0
    common = set().union(*(_common_words(p, e) for p in predicted for e in expected))
    precision = len(common) / len(set().union(*predicted))
    recall = len(common) / len(set().union(*expected))
    return 100.0 * 2.0 * precision * recall / (precision + recall + 1e-8)


def _sentences(text: str) -> list[list[str]]:
    # A blank between two full stops counts as a sentence of one empty word, because the package counts it so.
    return [sentence.split() or [""] for sentence in text.split(".") if sentence]


def _common_words(predicted: list[str], expected: list[str]) -> set[str]:
    """The different words of one longest common subsequence of two sentences.

    There may be several, and they differ in repeated words. The package finds its own from the end, and where two
    ways are equally long it shortens what it calls the hypothesis; TRACE hands it the *reference* as the hypothesis.
    """
    length = [[0] * (len(expected) + 1) for _ in range(len(predicted) + 1)]
    for i, word in enumerate(predicted):
        for j, other in enumerate(expected):
            length[i + 1][j + 1] = length[i][j] + 1 if word == other else max(length[i][j + 1], length[i + 1][j])

    common = set()
    i, j = len(predicted), len(expected)
    while i and j:
        if predicted[i - 1] == expected[j - 1]:
            i, j = i - 1, j - 1
            common.add(predicted[i])
        elif length[i - 1][j] > length[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return common
