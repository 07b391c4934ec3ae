"""What the dry run counts, by hand."""

from trace_cl.plan import optimizer_steps, tokens
from trace_cl.strategies.base import Phase


def test_an_epochs_last_batch_may_be_smaller() -> None:
    assert optimizer_steps(Phase("a", range(12), 5), 5) == 15
    assert optimizer_steps(Phase("a", range(10), 3), 5) == 6


def test_tokens_count_every_epoch() -> None:
    assert tokens([Phase("a", ["xx", "yyy"], 3), Phase("b", ["z"], 1)]) == 16
