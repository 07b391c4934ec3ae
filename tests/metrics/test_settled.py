"""Where a metric says that an answer is settled, nothing that follows changes its score; and it does say so."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_cl.metrics import METRICS, VARIANTS, accuracy, first_character, macro_f1, settled_by

# Few characters, or nothing would ever begin alike; blanks of several kinds, and some that only `strip` takes for one.
TEXTS = st.text("AB1. \n\t\u3000\x1f", max_size=6)


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"sari"}))
@settings(max_examples=1000, deadline=None)
@given(begun=TEXTS, more=TEXTS, references=st.lists(TEXTS, min_size=1, max_size=3))
def test_what_follows_a_settled_text_changes_no_score(name: str, begun: str, more: str, references: list[str]) -> None:
    metric = METRICS[name]
    settled = settled_by(metric, references)
    if settled is None or not settled(begun):
        return
    for variant in VARIANTS:
        cut, whole = (metric([text] * len(references), references, variant) for text in (begun, begun + more))
        assert cut == whole


@settings(max_examples=1000, deadline=None)
@given(begun=TEXTS, reference=TEXTS)
def test_a_text_that_is_not_settled_can_still_become_right_and_wrong(begun: str, reference: str) -> None:
    for metric in (accuracy, first_character):
        settled = settled_by(metric, [reference])
        assert settled is not None
        if reference.strip() and not settled(begun):
            wanted = reference.strip()
            missing = wanted[len(begun.lstrip()) :] if wanted.startswith(begun.lstrip()) else ""
            assert metric([begun + missing], [reference]) == [100]
            assert metric([f"{begun}{missing}?" if metric is accuracy else f"{begun}?"], [reference]) == [0]


@pytest.mark.parametrize(
    ("text", "settled"),
    [("", False), ("  \n", False), ("A", False), ("A  \n ", False), ("A\nB", True), ("B", True), ("\n B", True)],
)
def test_blanks_settle_nothing(text: str, settled: bool) -> None:
    by = settled_by(accuracy, ["A", "A"])
    assert by is not None
    assert by(text) is settled


def test_an_answer_is_held_against_every_reference_of_the_task() -> None:
    by = settled_by(accuracy, ["A", "12 Euro", "12"])
    assert by is not None
    assert [by(text) for text in ("12", "12 Eu", "12 Eur.", "13")] == [False, False, True, True]


def test_where_every_word_counts_nothing_is_settled() -> None:
    said = {name for name, metric in METRICS.items() if settled_by(metric, ["A"]) is not None}
    assert said == {"accuracy", "first_character"}


def test_of_a_metric_of_the_whole_corpus_nothing_is_settled() -> None:
    """A wrong answer still counts for the class that it names: "B" and "B." are different figures."""
    assert settled_by(macro_f1, ["A", "B"]) is None
    assert macro_f1.corpus(["A", "B", "B"], ["A", "A", "B"]) != macro_f1.corpus(["A", "B.", "B"], ["A", "A", "B"])
