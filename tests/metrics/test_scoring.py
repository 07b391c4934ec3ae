"""A metric is told what it names among its arguments, and may speak for all examples at once."""

from collections.abc import Sequence

from trace_cl.metrics import Variant, is_of_corpus, macro_f1, score_answers, score_corpus, similarity

ANSWERS, REFERENCES, PROMPTS = ["a", "bb"], ["a", "bc"], ["p", "qq"]


def plain(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    return [1.0, 2.0]


def told_all(
    predictions: Sequence[str], references: Sequence[str], variant: Variant, prompts: Sequence[str]
) -> list[float]:
    return [float(len(prompt) + len(variant)) for prompt in prompts]


def test_a_metric_is_told_what_it_names() -> None:
    assert score_answers(plain, ANSWERS, REFERENCES, PROMPTS, "standard") == [1, 2]
    assert score_answers(told_all, ANSWERS, REFERENCES, PROMPTS, "standard") == [9, 10]
    assert score_answers(told_all, ANSWERS, REFERENCES, PROMPTS, "trace_compat") == [13, 14]
    assert score_answers(similarity, ANSWERS, REFERENCES, PROMPTS, "trace_compat") == [100, 50]


def test_the_figure_is_the_mean_unless_the_metric_has_another() -> None:
    assert not is_of_corpus(plain)
    assert score_corpus(plain, ANSWERS, REFERENCES, PROMPTS, "standard", [1.0, 2.0]) == 1.5
    assert is_of_corpus(macro_f1)
    assert score_corpus(macro_f1, ["A"] * 4, ["A", "A", "A", "B"], ["p"] * 4, "standard", [100, 100, 100, 0]) == (
        100 * (6 / 7) / 2
    )
