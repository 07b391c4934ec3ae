"""Edit similarity: worked by hand, and against the package that TRACE calls."""

import random
from collections.abc import Callable

import Levenshtein
import pytest
from fuzzywuzzy import fuzz

from trace_cl.metrics import similarity


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        # One replaced character of three is one deletion and one insertion: 1 - 2/6.
        ("abc", "abd", 100 * 2 / 3),
        ("aab", "aba", 100 * 2 / 3),
        ("abcd", "bc", 100 * 2 / 3),
        ("abc", "xyz", 0.0),
        ("", "abc", 0.0),
        ("x = 1", "x = 1", 100.0),
        ("X", "x", 0.0),
    ],
)
def test_worked_by_hand(prediction: str, reference: str, score: float) -> None:
    assert similarity([prediction], [reference]) == pytest.approx([score])
    assert similarity([prediction], [reference], "trace_compat") == [round(score)]


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        ("x = <NUM_LIT:200>", "x = 200"),
        ("x = <NUM_LIT>", "x = 0"),
        ("f ( '<STR_LIT:id>' , '<STR_LIT>' )", "f ( 'id' , '' )"),
        ("c = '<CHAR_LIT:a>' + '<CHAR_LIT>'", "c = 'a' + ''"),
        ("<STR_LIT:two\nlines> + <STR_LIT:>", "two\nlines +"),
        ("<STR_LIT:a> <OTHER_LIT:b>", "a <OTHER_LIT:b>"),
    ],
)
def test_literal_markers_are_resolved_on_both_sides(marked: str, plain: str) -> None:
    assert similarity([marked, plain], [plain, marked]) == [100.0, 100.0]


def test_texts_of_which_nothing_is_left() -> None:
    predictions, references = ["<STR_LIT>", "", "<STR_LIT>"], ["<STR_LIT>", "<STR_LIT>", "x"]
    assert similarity(predictions, references) == [100.0, 100.0, 0.0]
    assert similarity(predictions, references, "trace_compat") == [0.0, 0.0, 0.0]


def test_halves_round_to_even_as_in_the_package() -> None:
    # 1 of 16 characters in common on each side: 6.25 % -> 6; 1 of 8: 12.5 % -> 12; 3 of 8: 37.5 % -> 38.
    predictions, references = (
        ["a" + "b" * 15, "a" + "b" * 7, "aaa" + "b" * 5],
        ["a" + "c" * 15, "a" + "c" * 7, "aaa" + "c" * 5],
    )
    assert similarity(predictions, references, "trace_compat") == [6.0, 12.0, 38.0]


def resolved(line: str) -> str:
    """A line of Py150 without its markers, by splitting instead of matching; no blank is stripped."""
    line = line.replace("<STR_LIT>", "").replace("<NUM_LIT>", "0")
    for opening in ("<STR_LIT:", "<NUM_LIT:"):
        head, *rest = line.split(opening)
        line = head + "".join(part.replace(">", "", 1) for part in rest)
    return line


def test_trace_compat_is_fuzzywuzzy_on_py150(trace_answers: Callable[[str], list[str]]) -> None:
    rng = random.Random(0)
    lines = trace_answers("Py150")
    pairs, expected = [], []
    for line in lines:
        plain = resolved(line)
        shuffled = "".join(rng.sample(plain, len(plain)))
        thinned = "".join(character for character in plain if rng.random() < 0.6)
        blanks = " " * rng.randrange(3) + line + "\n" * rng.randrange(3)
        for prediction in (line, blanks, plain[: len(plain) // 2], shuffled, thinned, *rng.sample(lines, 10)):
            if resolved(prediction):
                pairs.append((prediction, line))
                expected.append(fuzz.ratio(resolved(prediction), plain))

    predictions, references = zip(*pairs, strict=True)
    assert any("_LIT" in prediction for prediction in predictions)
    assert len(expected) > 1000
    assert len(set(expected)) > 50
    assert similarity(predictions, references, "trace_compat") == expected
    stripped = [100 * Levenshtein.ratio(resolved(p).strip(), resolved(r).strip()) for p, r in pairs]
    assert similarity(predictions, references) == pytest.approx(stripped)
    assert stripped != pytest.approx(expected, abs=0.5)


def test_markers_inside_markers_are_resolved_as_trace_resolves_them() -> None:
    # The first marker leaves one that the second, whose turn is next, stands for too.
    line = "<STR_LIT:<STR_LIT:ab>> <STR_LIT:ab>"
    assert similarity([line], ["ab ab"], "trace_compat") == [100.0]
