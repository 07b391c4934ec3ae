"""SARI against the figure of another implementation, against numbers worked by hand, and against the definition."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from trace_cl.metrics import VARIANTS, Variant, sari
from trace_cl.metrics.sari import score_tokens, tokenize

SOURCE = "About 95 species are currently accepted."
PREDICTION = "About 95 you now get in."
REFERENCES = (
    "About 95 species are currently known.",
    "About 95 species are now accepted.",
    "95 species are now accepted.",
)


def test_the_example_of_the_papers_authors() -> None:
    """The figure is the one that Hugging Face's `evaluate` documents for its metric `sari`."""
    score = score_tokens(tokenize(SOURCE), tokenize(PREDICTION), [tokenize(text) for text in REFERENCES])
    assert score == pytest.approx(26.953601953601954, abs=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_by_hand(variant: Variant) -> None:
    """Source "a b c", answer "a b d", reference "a b e"; n-grams longer than the texts count as right (0/0 is 1).

    n = 1: a and b are kept and were to be (F1 1); c is deleted, rightly (1); d is added, and e was to be (0). n = 2: ab
    is kept, rightly (1); bc is deleted, rightly (1); bd is added for be (0). n = 3: nothing is kept or was to be (1);
    abc is deleted, rightly (1); abd is added for abe (0). n = 4: nothing anywhere (1, 1, 1).
    """
    assert sari(["a b d"], ["a b e"], variant, prompts=["a b c"]) == pytest.approx([100 * 9 / 12])


def test_the_source_itself_and_the_reference_itself() -> None:
    source, reference = "one two three four five", "one two three six"
    [kept, right] = sari([source, f" {reference}\n"], [reference, reference], prompts=[source, source])
    assert right == 100.0
    # All is kept: n = 1: P 3/5, R 1; n = 2: 2/4, 1; n = 3: 1/3, 1; n = 4: nothing was to be kept, P 0 and R 1. Nothing
    # is deleted (1), and of four n-grams of the reference each length adds none.
    keep = [2 * p / (p + 1) for p in (3 / 5, 2 / 4, 1 / 3, 0)]
    assert kept == pytest.approx(100 * (sum(keep) + 4 * 1 + 4 * 0) / 12)


def by_definition(source: Sequence[str], answer: Sequence[str], reference: Sequence[str]) -> float:
    """Section 4 of the paper for one reference, n-gram by n-gram."""
    figures = []
    for n in (1, 2, 3, 4):
        i, o, r = (
            Counter(tuple(text[k : k + n]) for k in range(len(text) - n + 1)) for text in (source, answer, reference)
        )
        grams = {*i, *o, *r}
        kept = [g for g in grams if min(i[g], o[g])]
        p = [min(i[g], o[g], r[g]) / min(i[g], o[g]) for g in kept]
        to_keep = sum(min(i[g], r[g]) for g in grams)
        precision = sum(p) / len(p) if p else 1
        recall = sum(min(i[g], o[g], r[g]) for g in grams) / to_keep if to_keep else 1
        figures.append(2 * precision * recall / (precision + recall) if precision + recall else 0)
        d = [max(0, i[g] - o[g] - r[g]) / (i[g] - o[g]) for g in grams if i[g] > o[g]]
        figures.append(sum(d) / len(d) if d else 1)
        added = [g for g in o if not i[g]]
        to_add = [g for g in r if not i[g]]
        both = sum(1 for g in added if r[g])
        precision = both / len(added) if added else 1
        recall = both / len(to_add) if to_add else 1
        figures.append(2 * precision * recall / (precision + recall) if precision + recall else 0)
    return 100 * sum(figures) / 12


def test_random_texts_against_the_definition() -> None:
    draw = random.Random(0)
    for _ in range(300):
        texts = [" ".join(draw.choices("abcd", k=draw.randint(0, 9))) for _ in range(3)]
        [score] = sari([texts[1]], [texts[2]], prompts=[texts[0]])
        assert score == pytest.approx(by_definition(*(text.split() for text in texts)))
        assert 0 <= score <= 100


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Hello, World!", ["hello", ",", "world", "!"]),
        ("1,000.5 (km)", ["1,000.5", "(", "km", ")"]),
        ("für 3-4 Tage, u.a.", ["für", "3", "-", "4", "tage", ",", "u", ".", "a", "."]),
        ("well-known don't", ["well-known", "don't"]),
    ],
)
def test_words_are_cut_as_mteval_cuts_them(text: str, tokens: list[str]) -> None:
    assert tokenize(text) == tokens


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="1 predictions cannot be scored against 2 prompts"):
        sari(["a"], ["a"], prompts=["a", "b"])
    with pytest.raises(ValueError, match="1 predictions cannot be scored against 2 references"):
        sari(["a"], ["a", "b"], prompts=["a"])
