"""The engine against plain PyTorch, and what a round may and may not change."""

import copy
from pathlib import Path
from random import Random

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedModel

from trace_cl.strategies.base import Example
from trace_cl.strategies.hft import freeze, select
from trace_cl.strategies.selection import Selection
from trace_cl.training.engine import Optimization
from trace_cl.training.torch_engine import TorchLearner


def examples(count: int, seed: int = 0) -> list[Example]:
    draw = Random(seed)
    return [
        Example(
            [draw.randrange(1, 999) for _ in range(draw.randrange(2, 40))],
            [draw.randrange(1, 999)] * draw.randrange(1, 9),
        )
        for _ in range(count)
    ]


def engine_of(model: PreTrainedModel, budget: int = 4096) -> TorchLearner:
    return TorchLearner(model, Optimization(learning_rate=1e-3), budget)


@pytest.fixture
def model(small_model: Path) -> PreTrainedModel:
    loaded: PreTrainedModel = LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64)
    return loaded


def test_three_steps_equal_plain_pytorch(model: PreTrainedModel) -> None:
    """One example at a time, logits everywhere, PyTorch's own AdamW and clipping."""
    reference = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(reference.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    engine = engine_of(model)
    for step in range(3):
        batch = examples(7, seed=step)
        engine_loss = engine.backward(batch)
        norm = engine.step()

        losses = []
        for example in batch:
            ids = torch.tensor([[*example.prompt, *example.answer]])
            logits = reference(input_ids=ids).logits[0, len(example.prompt) - 1 : -1]
            losses.append(cross_entropy(logits, ids[0, len(example.prompt) :], reduction="sum"))
        loss = torch.stack(losses).sum() / sum(len(example.answer) for example in batch)
        optimizer.zero_grad()
        loss.backward()
        reference_norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        optimizer.step()
        assert engine_loss == pytest.approx(loss.item(), rel=1e-12)
        assert norm == pytest.approx(reference_norm.item(), rel=1e-9)
    engine.close()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_how_the_batch_is_cut_changes_nothing(model: PreTrainedModel) -> None:
    trained = []
    for budget in (1, 100, 10_000):
        copied = copy.deepcopy(model)
        engine = engine_of(copied, budget)
        for step in range(4):
            engine.backward(examples(9, seed=step))
            engine.step()
        engine.close()
        trained.append(copied)
    for first, *others in zip(*(list(m.parameters()) for m in trained), strict=True):
        for other in others:
            torch.testing.assert_close(first, other, rtol=0, atol=1e-9)


def test_the_frozen_half_is_bit_identical_after_a_round(model: PreTrainedModel) -> None:
    frozen = select(model, 1, 1, Selection())
    freeze(model, frozen)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    engine = engine_of(model)
    for step in range(3):
        engine.backward(examples(5, seed=step))
        engine.step()
    engine.close()
    assert frozen
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name.rpartition(".")[0] in frozen), name


def test_bf16_learns_what_bf16_alone_would_swallow(small_model: Path) -> None:
    """At 1e-5 AdamW moves a weight by less than bf16 can tell apart; over many steps it must move all the same."""
    model = LlamaForCausalLM.from_pretrained(small_model, dtype=torch.bfloat16)
    before = model.lm_head.weight.detach().float().clone()
    engine = TorchLearner(model, Optimization(learning_rate=1e-5), 4096)
    for _ in range(60):
        engine.backward(examples(2))
        engine.step()
    moved = (model.lm_head.weight.float() - before).abs().max()
    assert 3e-4 < moved < 7e-4, "60 steps of at most 1e-5 each"
    engine.close()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
