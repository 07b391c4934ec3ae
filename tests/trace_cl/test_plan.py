"""What the dry run counts, by hand."""

import json
import re

from trace_cl.plan import optimizer_steps, render, tokens
from trace_cl.strategies.base import Example, Phase

EXAMPLE = Example([1], [2])


def test_an_epochs_last_batch_may_be_smaller() -> None:
    assert optimizer_steps(Phase("a", [EXAMPLE] * 12, 5), 5) == 15
    assert optimizer_steps(Phase("a", [EXAMPLE] * 10, 3), 5) == 6


PLAN = {
    "folder": "runs/a/b/seqft/seed1",
    "model": "b",
    "parameters": 1234,
    "optimizer_steps": 12345,
    "memory_per_device": {
        "dtype": "float32", "processes": 1, "round": 2, "weights": 3 * 2**30, "gradients": 2**20, "optimizer": 0,
        "strategy": 0, "activations": None, "total": None,
    },
    "rounds": [
        {"round": 1, "task": "A", "epochs": 2, "examples": 7, "optimizer_steps": 3, "tokens": None,
         "trainable_share": 0.25},
    ],
    "unknown": ["tokens.training"],
}  # fmt: skip


def test_a_plan_is_a_table_for_people_and_json_for_programs() -> None:
    assert json.loads(render(PLAN, as_json=True)) == PLAN
    text = render(PLAN, as_json=False)
    assert re.search(r"^ +1 +A +2 +7 +3 +\? +25\.0%$", text, re.MULTILINE)
    assert "12,345 optimizer steps" in text
    assert text.splitlines()[-2:] == [
        "  weights 3.0 GiB, gradients 1 MiB",
        "not known without the data (benchmark.root): tokens, and the memory that activations take",
    ]


def test_tokens_count_every_epoch() -> None:
    assert tokens([Phase("a", [EXAMPLE, Example([1, 2], [3])], 3), Phase("b", [Example([1], [])], 1)]) == 16
