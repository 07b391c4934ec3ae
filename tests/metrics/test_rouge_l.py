"""ROUGE-L: worked by hand, against rouge-score's own tokenizer, and against the package that TRACE calls."""

import random
from collections.abc import Callable

import pytest
from rouge import Rouge
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from trace_cl.metrics import rouge_l
from trace_cl.metrics.rouge_l import UnicodeTokenizer


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Für Zürich!", ["für", "zürich"]),
        ("Fu\u0308r", ["f\u00fcr"]),
        ("Item 12-a, H.R. 3", ["item", "12", "a", "h", "r", "3"]),
        ("我爱北京 2024年", ["我", "爱", "北", "京", "2024", "年"]),
        ("カナとひら", ["カ", "ナ", "と", "ひ", "ら"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("Привет_мир", ["привет", "мир"]),
        ("?! …", []),
    ],
)
def test_tokenizer(text: str, tokens: list[str]) -> None:
    assert UnicodeTokenizer().tokenize(text) == tokens


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        # 3 words in common and in order, of 4 predicted and 6 expected: P = 3/4, R = 3/6, F1 = 3/5.
        ("the cat the mat", "the cat sat on the carpet", 60.0),
        ("mat the on", "on the mat", 100 / 3),
        ("ÜBER uns.", "über uns", 100.0),
        ("天气很好", "天气很好", 100.0),
        ("天气很好", "天气不好", 75.0),
        ("nothing shared", "keine Wörter", 0.0),
        ("", "word", 0.0),
        ("...", "...", 0.0),
    ],
)
def test_standard_worked_by_hand(prediction: str, reference: str, score: float) -> None:
    assert rouge_l([prediction], [reference]) == pytest.approx([score])


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        # Words are distinct: {the, cat, mat} and {the, cat, sat, on, carpet} share {the, cat}: 2 · 2 / (3 + 5).
        ("the cat the mat", "the cat sat on the carpet", 50.0),
        # Each sentence finds its own part, in any order: {a, b, c, d} of 4 and 4, where the plain LCS has two words.
        ("c d. a b", "a b. c d", 100.0),
        # Case and commas count: {Yes,} and {yes} differ.
        ("Yes, we", "yes we", 50.0),
        # The blank between two stops is a sentence of one empty word: {a, b, ""} against {a, b}.
        ("a. .b", "a.b", 80.0),
        ("", "word", 0.0),
        ("..", "word", 0.0),
        ("word", "..", 0.0),
    ],
)
def test_trace_compat_worked_by_hand(prediction: str, reference: str, score: float) -> None:
    # The package adds 1e-8 to the denominator, so a full match is not quite 100.
    assert rouge_l([prediction], [reference], "trace_compat") == pytest.approx([score], abs=1e-5)


def test_trace_compat_scores_texts_too_long_for_the_package() -> None:
    # The package recurses once a word, so it fails on a sentence beyond the interpreter's limit of 1,000.
    text = " ".join(f"w{i}" for i in range(1200))
    assert rouge_l([text], [text], "trace_compat") == pytest.approx([100.0], abs=1e-5)
    with pytest.raises(RecursionError):
        Rouge(metrics=["rouge-l"]).get_scores(text, text)


def spoiled(answers: list[str]) -> list[tuple[str, str]]:
    """Pairs of (prediction, reference) that are right, half right and wrong in several ways."""
    rng = random.Random(0)
    pairs = []
    for i, reference in enumerate(answers):
        words = reference.split()
        other = answers[i - 1].split()
        half = len(words) // 2
        replaced = [word if rng.random() < 0.5 else rng.choice(other) for word in words]
        predictions = [
            ["", *words, "\n"],
            words,
            words[:half],
            words[:half] + other[len(other) // 2 :],
            [word for word in words if rng.random() < 0.5],
            replaced,
            rng.sample(words, len(words)),
            words + words,
            [*words[:half], ".", ".", *words[half:]],
            words[::-1],
            other,
        ]
        pairs += [(" ".join(prediction), reference) for prediction in predictions if prediction]
    return pairs


@pytest.mark.parametrize("task", ["MeetingBank", "20Minuten"])
def test_trace_compat_is_the_package_as_trace_calls_it(task: str, trace_answers: Callable[[str], list[str]]) -> None:
    predictions, references = zip(*spoiled(trace_answers(task)), strict=True)
    package = Rouge(metrics=["rouge-l"])
    # TRACE's scorer hands over the reference first, in the place of the hypothesis. The order decides between
    # equally long subsequences, by more than 10 points on some shuffled pairs.
    expected = [
        100 * package.get_scores(reference, prediction, avg=True)["rouge-l"]["f"]
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    swapped = [
        100 * package.get_scores(prediction, reference, avg=True)["rouge-l"]["f"]
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    assert len(expected) > 800
    assert swapped != pytest.approx(expected, abs=1e-6)
    assert rouge_l(predictions, references, "trace_compat") == pytest.approx(expected, abs=1e-6)


def test_standard_is_rouge_score_on_unaccented_english(trace_answers: Callable[[str], list[str]]) -> None:
    predictions, references = zip(*spoiled([a for a in trace_answers("MeetingBank") if a.isascii()]), strict=True)
    scorer = RougeScorer(["rougeL"], tokenizer=DefaultTokenizer())
    expected = [
        100 * scorer.score(reference, prediction)["rougeL"].fmeasure
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    assert len(expected) > 500
    assert rouge_l(predictions, references) == pytest.approx(expected, abs=1e-9)
