"""Joint training: what is learned from, counted; and in a whole run the one round that trains."""

import json
from collections.abc import Callable
from pathlib import Path

from support import FakeTask

from trace_cl.strategies.base import Round
from trace_cl.strategies.joint import Joint

TASKS = [FakeTask("a", 0, epochs=5), FakeTask("b", 1, epochs=2)]


def test_the_last_round_learns_every_example_as_often_as_its_task_has_epochs() -> None:
    assert Joint().phases(Round(1, TASKS[:1], [])) == []
    [phase] = Joint().phases(Round(1, TASKS, [], last=True))
    assert (len(phase.examples), phase.epochs) == (12 * 5 + 12 * 2, 1)
    assert [phase.examples.count(example) for task in TASKS for example in task.train] == [5] * 12 + [2] * 12


def test_one_round_trains_and_the_others_score_the_base_model(run: Callable[..., Path]) -> None:
    folder = run("strategy=joint", method="joint")
    records = [json.loads((folder / "rounds" / f"round{t}.json").read_text()) for t in (1, 2, 3)]
    assert [record["optimizer_steps"] for record in records] == [0, 0, -(-12 * (5 + 3 + 2) // 5)]
    assert [record["trainable_share"] for record in records] == [0.0, 0.0, 1.0]
    assert [record["final_loss"] is None for record in records] == [True, True, False]
    summary = json.loads((folder / "summary.json").read_text())
    rows = [line.split(",")[1:] for line in (folder / "matrix.csv").read_text().splitlines()[1:]]
    assert summary["untrained_rounds"] == [1, 2]
    assert summary["BWT"] == [None, None, None], "of rounds that trained nothing there is no score just after learning"
    assert summary["OP"][-1] == sum(map(float, rows[-1])) / 3
    for row in rows[:-1]:
        for score, base in zip(filter(None, row), summary["zero_shot"].values(), strict=False):
            assert float(score) == base
