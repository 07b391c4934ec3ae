"""The engine against plain PyTorch, and what a round may and may not change."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedModel

from trace_cl.data.batches import micro_batches
from trace_cl.errors import UserError
from trace_cl.strategies.base import Batch, Example, Model
from trace_cl.strategies.hft import freeze, select
from trace_cl.strategies.selection import Selection
from trace_cl.training.engine import Optimization
from trace_cl.training.torch_engine import TorchEngine, TorchLearner


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


def test_a_norm_that_is_not_finite_is_never_written_into_the_weights(model: PreTrainedModel) -> None:
    before = copy.deepcopy(model)
    engine = TorchLearner(model, Optimization(learning_rate=1e-3), 4096, lambda model, batch: model.mean(batch) * 1e308)
    engine.backward(examples(3))
    assert not math.isfinite(engine.step())
    for ours, theirs in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.grad is None


def test_an_example_is_examined_by_itself(model: PreTrainedModel) -> None:
    """Against autograd; and nothing of it is left."""
    engine = engine_of(model)
    [example] = examples(1)
    loss, norm = engine.examine(example)
    ids = torch.tensor([[*example.prompt, *example.answer]])
    logits = model(input_ids=ids).logits[0, len(example.prompt) - 1 : -1]
    expected = cross_entropy(logits, ids[0, len(example.prompt) :])
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    assert loss == pytest.approx(expected.item(), rel=1e-9)
    assert norm == pytest.approx(sum(g.square().sum().item() for g in gradients) ** 0.5, rel=1e-9)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_notes_of_a_loss_are_summed_over_the_step_however_it_is_cut(model: PreTrainedModel) -> None:
    def noting(model: Model, batch: Batch) -> Tensor:
        batch.note("share", torch.tensor(batch.share))
        batch.note("half", model.mean(batch) / 2)
        return model.mean(batch)

    for budget in (1, 100, 10_000):
        engine = TorchLearner(model, Optimization(learning_rate=1e-3), budget, noting)
        loss = engine.backward(examples(9))
        assert engine.noted == pytest.approx({"share": 1.0, "half": loss / 2})
        engine.take_gradients()
    assert TorchLearner(model, Optimization(learning_rate=1e-3), 100).noted == {}


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


def with_memory_for(tokens: int, error: Exception = ERRORS[0], in_backward: bool = False) -> Callable[..., Tensor]:
    """A loss of a machine on which no more than so many tokens fit."""

    def give_out(_: Tensor) -> None:
        raise error

    def loss(model: Model, batch: Batch) -> Tensor:
        value = model.mean(batch)
        if batch.input_ids.numel() > tokens:
            if not in_backward:
                raise error
            value.register_hook(give_out)
        return value

    return loss


def trained(model: PreTrainedModel, budget: int, loss: Callable[..., Tensor]) -> list[Tensor]:
    """Two rounds of a step: what a round has learned of its machine the next one knows."""
    engine = TorchEngine(Optimization(learning_rate=1e-3), torch.device("cpu"), budget)
    model = copy.deepcopy(model)
    for seed in (1, 2):
        learner = engine.train(model, loss)
        learner.backward(examples(9, seed=seed))
        learner.step()
        learner.close()
    return list(model.parameters())


@pytest.mark.parametrize(("error", "in_backward"), [*((error, False) for error in ERRORS), (ERRORS[0], True)])
def test_out_of_memory_the_budget_is_halved_once_in_a_run(
    model: PreTrainedModel, error: Exception, in_backward: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the byte what half of the budget gives from the start, which halves nothing."""
    small = trained(model, 120, with_memory_for(120))
    assert capsys.readouterr().err == ""
    halved = trained(model, 240, with_memory_for(120, error, in_backward))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(small, halved, strict=True))
    said = capsys.readouterr().err
    assert said.count("out of memory at a micro-batch of") == 1
    assert "training.tokens_per_batch, 120, which changes no result" in said


def test_what_a_failed_pass_had_added_is_dropped(model: PreTrainedModel) -> None:
    """The second of three micro-batches fails, once the first has left its gradients."""
    calls = [0]

    def second_fails(model: Model, batch: Batch) -> Tensor:
        calls[0] += 1
        if calls[0] == 2:
            raise ERRORS[0]
        return model.mean(batch)

    batch = examples(9)
    assert len(micro_batches(batch, 200)) > 1
    reference, engine = (
        engine_of(copy.deepcopy(model), 100),
        TorchLearner(model, Optimization(learning_rate=1e-3), 200, second_fails),
    )
    assert engine.backward(batch) == reference.backward(batch)
    for name, gradient in engine.take_gradients().items():
        torch.testing.assert_close(gradient, reference.parameters[name].grad, rtol=0, atol=0)


def test_what_cannot_be_halved_is_refused_with_the_keys_that_help(model: PreTrainedModel) -> None:
    batch = examples(9)

    def engine(budget: int, fits: int) -> TorchLearner:
        return TorchLearner(model, Optimization(learning_rate=1e-3), budget, with_memory_for(fits))

    with pytest.raises(UserError, match=r"\d+ × \d+ tokens: set training\.tokens_per_batch lower, or .*checkpointing"):
        engine(400, 60).backward(batch)  # once is not enough
    learner = engine(400, 200)
    learner.backward(batch)
    learner.take_gradients()
    learner.objective.loss = with_memory_for(100)
    with pytest.raises(UserError, match="out of memory"):
        learner.backward(batch)  # it was halved before
    with pytest.raises(UserError, match=r"of 1 × \d+ tokens: set engine\.gradient_checkpointing=true, or spread"):
        engine(1, 20).backward(batch)  # a row cannot be cut
    learner = engine(400, 200)
    learner.put_gradients({name: torch.ones_like(p) for name, p in learner.parameters.items()})
    with pytest.raises(UserError, match="out of memory"):
        learner.backward(batch)  # what was there before cannot be told from what the failed pass has added
    learner.take_gradients()
    model.config.attention_dropout = 0.1
    with pytest.raises(UserError, match=r"in a run begun anew \(this model's own dropout follows the cut"):
        engine(400, 200).backward(batch)


def test_another_error_is_not_taken_for_it(model: PreTrainedModel) -> None:
    learner = TorchLearner(model, Optimization(learning_rate=1e-3), 400, with_memory_for(0, RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        learner.backward(examples(9))
