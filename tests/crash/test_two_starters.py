"""A run that is started twice at once."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from time import sleep

import pytest
from crash.harness import KILLS, Reference, Runs, differing, folder_of

SETTINGS = ("benchmark.order=[FOMC,C-STANCE]", "evaluation.zero_shot=false")


@pytest.mark.parametrize(
    "number", [pytest.param(number, marks=() if number < 2 else pytest.mark.crash) for number in range(KILLS // 2)]
)
def test_one_runs_and_the_other_says_why_not(
    number: int, runs: Runs, reference: Callable[..., Reference], tmp_path: Path
) -> None:
    """The second comes within milliseconds; or every other time as the first is about to be complete, or is."""
    whole, draw = reference(*SETTINGS), Random(f"two starters {number}")
    after = draw.uniform(0, 0.02) if number % 2 == 0 else whole.seconds * draw.uniform(0.5, 1.1)
    first = runs.start(tmp_path, *SETTINGS)
    sleep(after)
    both = [first, runs.start(tmp_path, *SETTINGS)]
    assert all(started.wait() for started in both)
    for started in both:
        if started.codes == {2}:
            [sentence] = started.sentences
            assert sentence.endswith("is being run by another process: wait for it, or end it")
        else:
            assert (started.codes, started.sentences) == ({0}, [])
    codes = [code for started in both for code in started.codes]
    said = [started.said[0].with_suffix(".out").read_text() for started in both]
    assert codes.count(0) == 1 or sum("is complete." in text for text in said) == 1
    assert not differing(folder_of(tmp_path), whole.folder)
