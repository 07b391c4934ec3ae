"""What the dry run counts, by hand."""

from trace_cl.plan import optimizer_steps, tokens
from trace_cl.strategies.base import Example, Phase

EXAMPLE = Example([1], [2])


def test_an_epochs_last_batch_may_be_smaller() -> None:
    assert optimizer_steps(Phase("a", [EXAMPLE] * 12, 5), 5) == 15
    assert optimizer_steps(Phase("a", [EXAMPLE] * 10, 3), 5) == 6


def test_tokens_count_every_epoch() -> None:
    assert tokens([Phase("a", [EXAMPLE, Example([1, 2], [3])], 3), Phase("b", [Example([1], [])], 1)]) == 16
