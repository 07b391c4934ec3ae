"""How growth is measured: the exponent of a power law, and the rounds of a clock."""

import json
from math import log
from pathlib import Path

import numpy as np
import pytest
from growth import TASKS, Growth, Round, alike, configure, exponent, read_clock, table

from trace_cl.run import start


def test_the_exponent_of_a_power_law_is_its_exponent() -> None:
    assert exponent([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)
    assert exponent([1, 10, 100], [5, 5, 5]) == pytest.approx(0)


def test_the_exponent_is_the_slope_that_numpy_fits() -> None:
    sizes, seconds = [1.0, 2.0, 3.0, 7.0], [1.1, 1.7, 3.4, 6.0]
    slope = np.polyfit([log(size) for size in sizes], [log(each) for each in seconds], 1)[0]
    assert exponent(sizes, seconds) == pytest.approx(slope)


def test_a_clock_is_read_by_rounds() -> None:
    """Three steps of 2 and then 5 until the next round begins; two steps of 3 and then 4 until the end."""
    noted = [("step", 12.0), ("step", 14.0), ("step", 16.0), ("round", 19.0), ("step", 24.0), ("step", 27.0)]
    assert read_clock([*noted, ("round", 30.0), ("end", 31.0)]) == [Round(6, 5), Round(6, 4)]


def test_the_table_has_seconds_and_exponents() -> None:
    growth = Growth("tasks seen", "SeqFT", [1.0, 2.0, 4.0], [Round(1, 3), Round(1, 6), Round(1, 12)])
    [_, _, line] = table([growth]).splitlines()
    assert line == "| tasks seen | SeqFT | 1 | 4 | 1.00 → 1.00 | 0.00 | 3.00 → 12.00 | 1.00 |"


def test_the_tasks_are_alike() -> None:
    sizes = {
        tuple(len(row["prompt"]) for row in splits["train"]) + tuple(len(row["answer"]) for row in splits["test"])
        for splits in alike().values()
    }
    assert len(sizes) == 1
    assert len({splits["train"][0]["prompt"] for splits in alike().values()}) == len(TASKS)


def test_a_run_notes_every_step_and_round(small_model: Path, tmp_path: Path) -> None:
    two = f"benchmark.order=[{','.join(TASKS[:2])}]"
    start(configure(tmp_path, f"model.path={small_model}", "model.name=small", two, "benchmark.max_train=16"))
    [clock] = tmp_path.glob("*/*/*/seed*/clock.jsonl")
    lines = [json.loads(line) for line in clock.read_text().splitlines()]
    assert [axis for axis, _ in lines] == ["step", "step", "round", "step", "step", "round", "end"]
    rounds = read_clock([(axis, seconds) for axis, seconds in lines])
    assert all(round.learning > 0 and round.scoring > 0 for round in rounds)
