"""What the dry run counts, by hand."""

import torch

from strategies.base import Phase
from trace_cl.plan import Memory, optimizer_steps, tokens


def test_an_epochs_last_batch_may_be_smaller() -> None:
    assert optimizer_steps(Phase("a", range(12), 5), 5) == 15
    assert optimizer_steps(Phase("a", range(10), 3), 5) == 6


def test_tokens_count_every_epoch() -> None:
    assert tokens([Phase("a", ["xx", "yyy"], 3), Phase("b", ["z"], 1)]) == 16


def test_memory_of_half_a_bf16_model() -> None:
    """100 parameters, 40 of them learning: 60 × 2 + 40 × 4 bytes of weights, 40 × 4 of gradients, 40 × 8 of AdamW."""
    memory = Memory.of(100, 40, 7, torch.bfloat16)
    assert (memory.weights, memory.gradients, memory.optimizer, memory.total) == (280, 160, 320, 767)
