"""The operations of a step: by hand, and against what PyTorch counts of a real one."""

from dataclasses import dataclass

import pytest
import torch
from ranks import model_of
from torch.utils.flop_counter import FlopCounterMode

from trace_cl.strategies.base import Batch, Example, Phase
from trace_cl.strategies.hft import freeze, select
from trace_cl.strategies.selection import Selection
from trace_cl.training.flops import Flops, answering, count, training
from trace_cl.training.loss import LanguageModel


@dataclass
class FakeAnswered:
    """A task as far as it is answered."""

    answer_tokens: int
    prompts: list[list[int]]


SIZES = {
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
}
MATRICES = 4 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 176)


def test_six_operations_a_weight_and_token() -> None:
    """2 in the forward pass, 2 for the input's gradient, 2 for the weight's; of attention two products, L × L × 64."""
    assert count(model_of(**SIZES)) == Flops(6 * MATRICES, 3 * 4 * 4 * 64, 6 * 64 * 96)
    assert count(model_of(**SIZES), learning=False) == Flops(2 * MATRICES, 4 * 4 * 64, 2 * 64 * 96)


def test_a_frozen_matrix_has_no_gradient_made() -> None:
    model = model_of(**SIZES)
    frozen = select(model, 1, 1, Selection())
    freeze(model, frozen)
    idle = sum(p.numel() for name in frozen for p in model.get_submodule(name).parameters() if p.dim() == 2)
    assert 0.4 * MATRICES < idle < 0.6 * MATRICES
    assert count(model) == Flops(6 * MATRICES - 2 * idle, 3 * 4 * 4 * 64, 6 * 64 * 96)


@pytest.mark.parametrize("frozen", [False, True], ids=["all of it", "half of it"])
def test_a_real_step_is_counted_alike(frozen: bool) -> None:
    model = model_of(**SIZES, attn_implementation="eager")
    if frozen:
        freeze(model, select(model, 2, 1, Selection(embeddings="freeze")))
    counted = count(model).of([(50, 20), (50, 20)])
    batch = Batch(torch.zeros(2, 50, dtype=torch.long), torch.arange(40), torch.zeros(40, dtype=torch.long), 40, [])
    with FlopCounterMode(display=False) as real:
        LanguageModel(model)(batch).backward()
    assert counted == real.get_total_flops()


def test_a_round_counts_every_epoch_and_another_half_of_the_same_sizes_once() -> None:
    """The last token of an example goes through the model as an answer alone."""
    model, known = model_of(**SIZES), dict[object, Flops]()
    phases = [Phase("a", [Example([1] * 7, [2] * 4)] * 3, 5), Phase("b", [Example([1], [2])], 1)]
    assert training(model, phases, known) == count(model).of([(10, 4)] * 15 + [(1, 1)])
    assert training(model, [], known) == 0
    assert training(model, phases, {key: Flops(1, 0, 0) for key in known}) == 151
    for round in (1, 2):
        freeze(model, select(model, round, 1, Selection()))
        alone = training(model, phases, {})
        assert training(model, phases, known) == alone
        model.requires_grad_(True)
    assert len(known) == 2


def test_answers_are_as_long_as_they_may_be() -> None:
    assert answering([FakeAnswered(4, [[1] * 6, [1] * 2])], Flops(10, 1, 100)) == 10 * 16 + 10**2 + 6**2 + 100 * 8
