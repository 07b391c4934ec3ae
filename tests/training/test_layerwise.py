"""Inner products layer by layer, against those of gradients that are held: over architectures, and in bytes."""

from collections.abc import Sequence
from itertools import accumulate
from random import Random
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, with_weights
from ranks import model_of, on_two_ranks, stream_under_each_stage
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

from trace_cl.data.batches import micro_batches
from trace_cl.strategies.base import Example, Unsuitable
from trace_cl.strategies.gem import inner_products
from trace_cl.strategies.hft import freeze, select
from trace_cl.strategies.layers import decoder_layers
from trace_cl.strategies.selection import Selection
from trace_cl.training.engine import Optimization, checkpoint_gradients
from trace_cl.training.layout import Layout
from trace_cl.training.memory import streaming
from trace_cl.training.torch_engine import TorchLearner


def examples(seed: int, count: int, longest: int = 12) -> list[Example]:
    """Of the 32 words that the architectures know."""
    draw = Random(seed)
    return [
        Example([draw.randrange(3, 32) for _ in range(draw.randrange(2, longest - 3))], [draw.randrange(3, 32)] * 3)
        for _ in range(count)
    ]


MEMORIES, BATCH = [examples(seed, 4) for seed in range(3)], examples(3, 5)


def streamed_and_held(model: PreTrainedModel, tokens: int) -> tuple[Tensor, Tensor]:
    """The table as it is streamed, and as gradients that are taken away one after another make it, both as parts of
    the gradients' lengths."""
    learner = TorchLearner(model, Optimization(learning_rate=1e-3), tokens)
    learner.backward(BATCH)
    streamed = learner.inner_products(MEMORIES)
    gradient, held = learner.take_gradients(), []
    for memory in MEMORIES:
        learner.backward(memory)
        held.append(learner.take_gradients())
    table = inner_products([*held, gradient]).sum(dim=0)
    lengths = table.diag().sqrt()
    learner.close()
    return streamed / lengths.outer(lengths), table / lengths.outer(lengths)


@pytest.mark.parametrize("tied", [False, True], ids=["head apart", "head tied"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture(architecture: str, tied: bool) -> None:
    """With layers kept and computed anew, and with embeddings that learn and that do not. (The library multiplies the
    matrices of experts in no double precision.)"""
    dtype = torch.float32 if "moe" in architecture or architecture == "mixtral" else torch.float64
    near = 1e-5 if dtype == torch.float32 else 1e-12
    own = {"dropout": 0.0} if architecture == "opt" else {}
    for tokens in (4096, 30):
        model = with_weights(architecture, dtype, tie_word_embeddings=tied, **own)
        model.get_input_embeddings().requires_grad_(tokens == 30)
        streamed, held = streamed_and_held(model, tokens)
        torch.testing.assert_close(streamed, held, rtol=0, atol=near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_halves_checkpointed_layers_and_bf16(dtype: torch.dtype) -> None:
    for checkpointed in (False, True):
        model = with_weights("llama", dtype)
        freeze(model, select(model, 1, 1, Selection()))
        checkpoint_gradients(model, checkpointed)
        streamed, held = streamed_and_held(model, 30)
        torch.testing.assert_close(streamed, held, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("tokens", "checkpointed", "times"), [(4096, False, 1), (30, False, 2), (30, True, 2)])
def test_a_layer_is_computed_no_more_often_than_need_be(tokens: int, checkpointed: bool, times: int) -> None:
    """Once where the batch itself had as much room; else twice, whether or not layers are checkpointed."""
    model = with_weights("llama")
    checkpoint_gradients(model, checkpointed)
    learner = TorchLearner(model, Optimization(learning_rate=1e-3), tokens)
    learner.backward([*BATCH, *BATCH, *BATCH])
    calls: list[nn.Module] = []
    mlp = next(iter(decoder_layers(model).values())).mlp
    assert isinstance(mlp, nn.Module)
    mlp.register_forward_pre_hook(lambda module, _: calls.append(module))
    learner.inner_products(MEMORIES)
    assert len(calls) == times * sum(len(micro_batches(memory, tokens)) for memory in MEMORIES)
    assert all(getattr(layer, "gradient_checkpointing", None) is checkpointed for layer in model.model.layers)


def test_what_is_at_hand_stays() -> None:
    model = with_weights("llama", torch.float64)
    learner = TorchLearner(model, Optimization(learning_rate=1e-3), 30)
    learner.backward(BATCH)
    before = {
        name: parameter.grad.clone() for name, parameter in learner.parameters.items() if parameter.grad is not None
    }
    learner.inner_products(MEMORIES)
    torch.testing.assert_close(learner.take_gradients(), before, rtol=0, atol=0)


def test_what_happens_between_layers_is_refused() -> None:
    """It is outside of every layer, so that nothing would go back through it."""
    model = with_weights("llama")
    learner = TorchLearner(model, Optimization(learning_rate=1e-3), 4096)
    learner.backward(BATCH)
    layer: Any = model.model.layers[1]
    plain, scale = type(layer), nn.Parameter(torch.ones(()))

    class Doubling(plain):  # type: ignore[misc,valid-type]
        def __call__(self, hidden: Tensor, *others: Any, **named: Any) -> Any:
            return super().__call__(2 * hidden, *others, **named)

    class Learning(plain):  # type: ignore[misc,valid-type]
        def __call__(self, *inputs: Any, **named: Any) -> Any:
            return super().__call__(*inputs, **named, learned=2 * scale)

    for kind, words in ((Doubling, "does more between its layers"), (Learning, "more to learn through")):
        layer.__class__ = kind
        with pytest.raises(Unsuitable, match=f"{words} .*: set strategy.memory_gradients=stored"):
            learner.inner_products(MEMORIES)
    layer.__class__ = plain
    assert torch.is_grad_enabled()
    learner.inner_products(MEMORIES)


def peak(work: Any) -> int:
    """Bytes that PyTorch's allocator has given out at the most meanwhile, beyond what there was."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = profiled.profiler.kineto_results.events()
    changes: list[tuple[int, int]] = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate(change for _, change in changes))


def test_bytes_are_those_that_are_planned_and_not_of_whole_gradients() -> None:
    """Measured: of twelve layers, the most that two memories take beyond one, and seven beyond two."""
    batches: Sequence[list[Example]] = [examples(seed, 1) for seed in range(7)]
    model = model_of(num_hidden_layers=12, vocab_size=64)
    learner = TorchLearner(model, Optimization(learning_rate=1e-3), 8)
    learner.backward(batches[0])
    learner.inner_products(batches)
    measured = {k: peak(lambda k=k: learner.inner_products(batches[:k])) for k in (2, 7)}
    planned = {k: sum(streaming(model, torch.float32, Layout(), batches[:k])) for k in measured}
    whole = 4 * sum(parameter.numel() for parameter in model.parameters())
    for k, found in measured.items():
        # Besides, a layer at work.
        assert 0.8 * planned[k] < found < 1.2 * planned[k]
    assert measured[7] - measured[2] == pytest.approx(planned[7] - planned[2], rel=0.1)
    assert measured[7] - measured[2] < 5 * whole / 10


@pytest.mark.distributed
def test_two_ranks() -> None:
    on_two_ranks(stream_under_each_stage)
