"""Dropout by example: what it does to an input, and that its masks follow the example and nothing else."""

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from support import FakeTask
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from trace_cl.data.batches import collate
from trace_cl.strategies.base import Example, Round, Unsuitable
from trace_cl.strategies.dropout import ExampleDropout
from trace_cl.strategies.lora_seqft import LoraSeqFT
from trace_cl.training.engine import Optimization, checkpoint_gradients
from trace_cl.training.torch_engine import TorchLearner

EXAMPLES = FakeTask("a", seed=1).train
ROUND = Round(1, [FakeTask("a", seed=1)], [])


def masks(examples: Sequence[Example], number: int = 0, before: int = 0, width: int = 50) -> list[Tensor]:
    """What is left of ones, for each example the L_r × `width` of its own; `before` tokens stand before each text."""
    dropout = ExampleDropout(0.3, number)
    batch = collate(examples, 1)
    dropout.look_at(batch)
    output = dropout(torch.ones(len(examples), before + batch.input_ids.shape[1], width))
    return [row[: before + len(example) - 1] for row, example in zip(output, examples, strict=True)]


@pytest.fixture(autouse=True)
def step() -> None:
    torch.manual_seed(7)


def test_its_mean_and_variance_are_dropouts() -> None:
    """E = 1 and Var = p / (1 − p), over a million draws: within four standard errors. Nothing but 0 and 1 / (1 − p)."""
    examples = [Example([n] * 100, [1] * 101) for n in range(50)]
    drawn = torch.stack(masks(examples, width=100)).double()
    assert drawn.unique().tolist() == pytest.approx([0, 1 / 0.7])
    variance = 0.3 / 0.7
    assert drawn.mean().item() == pytest.approx(1, abs=4 * (variance / drawn.numel()) ** 0.5)
    assert drawn.var().item() == pytest.approx(variance, rel=0.01)
    # No place, no channel and no example is favoured.
    for dimensions in ((0, 1), (0, 2), (1, 2)):
        assert drawn.mean(dimensions).sub(1).abs().max() < 5 * (variance / 5000) ** 0.5


def test_outside_training_nothing_is_dropped() -> None:
    inputs = torch.randn(2, 3, 4)
    assert ExampleDropout(0.3, 0).eval()(inputs) is inputs


def test_a_mask_is_the_examples_own() -> None:
    """In whatever company, order and padding; behind a prompt of the model's own too. Only the step's seed, the example
    and the module tell masks apart."""
    together = masks(EXAMPLES)
    assert all(torch.equal(a, b) for a, b in zip(together, reversed(masks(EXAMPLES[::-1])), strict=True))
    alone = [masks([example])[0] for example in EXAMPLES]
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    behind = [masks([example], before=2)[0] for example in EXAMPLES]
    assert all(torch.equal(a, b) for a, b in zip(masks(EXAMPLES, before=2), behind, strict=True))
    assert not torch.equal(masks([EXAMPLES[0]])[0], masks([EXAMPLES[0]], number=1)[0])
    first = masks([Example([1, 2, 3], [4, 5])])[0]
    assert not torch.equal(first, masks([Example([1, 2, 4], [4, 5])])[0])
    torch.manual_seed(8)
    assert not torch.equal(first, masks([Example([1, 2, 3], [4, 5])])[0])


def test_a_row_draws_no_more_than_its_own_length() -> None:
    """A GPU's generator gives other numbers first where it is asked for more of them."""
    dropout = ExampleDropout(0.3, 0)
    batch = collate(EXAMPLES, 1)
    dropout.look_at(batch)
    output = dropout(torch.ones(*batch.input_ids.shape, 50))
    for row, example in zip(output, EXAMPLES, strict=True):
        assert (row[: len(example) - 1] == 0).any()
        assert (row[len(example) - 1 :] != 0).all()


def test_what_others_draw_moves_no_mask() -> None:
    first = masks(EXAMPLES)
    torch.rand(3)
    assert all(torch.equal(a, b) for a, b in zip(first, masks(EXAMPLES), strict=True))


def test_rows_are_found_in_flattened_inputs_and_missed_in_sorted_ones() -> None:
    dropout = ExampleDropout(0.3, 0)
    batch = collate(EXAMPLES, 1)
    dropout.look_at(batch)
    inputs = torch.randn(*batch.input_ids.shape, 5)
    assert torch.equal(dropout(inputs).flatten(0, 1), dropout(inputs.flatten(0, 1)))
    with pytest.raises(Unsuitable, match=r"strategy\.dropout=0\.3 .* set strategy\.dropout=0"):
        dropout(inputs.flatten(0, 1)[1:])


def adapted(small_model: Path, dropout: float = 0.3) -> PreTrainedModel:
    return LoraSeqFT(dropout=dropout).build(
        lambda _: AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float64), None, [ROUND]
    )


def trained(model: PreTrainedModel, budget: int, turned: bool = False, checkpointing: bool = False) -> list[Tensor]:
    """The adapter after three steps."""
    model = copy.deepcopy(model)
    checkpoint_gradients(model, checkpointing)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    learner = TorchLearner(model, Optimization(learning_rate=0.01), budget)
    for number in range(3):
        torch.manual_seed(number)
        learner.backward(EXAMPLES[::-1] if turned else EXAMPLES)
        learner.step()
    learner.close()
    return [parameter for name, parameter in model.named_parameters() if ".lora_" in name]


def test_how_a_batch_is_cut_and_computed_changes_nothing(small_model: Path) -> None:
    model = adapted(small_model)
    whole = trained(model, 10_000)
    for other in (
        trained(model, 1),
        trained(model, 60),
        trained(model, 60, turned=True),
        trained(model, 60, checkpointing=True),
    ):
        torch.testing.assert_close(whole, other, rtol=0, atol=1e-9)
    without = trained(adapted(small_model, dropout=0), 60)
    assert any((ours - theirs).abs().max() > 1e-4 for ours, theirs in zip(whole, without, strict=True))
