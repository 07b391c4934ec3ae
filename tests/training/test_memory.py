"""What the dry run says a device must hold: by hand, and against what is there when a model is really trained."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from ranks import live_bytes_of_a_step_of_each_stage, model_of, on_two_ranks
from torch import nn
from transformers import AutoConfig

from trace_cl import speculative
from trace_cl.data.batches import DRAFT
from trace_cl.strategies.base import Batch, Bytes, Example
from trace_cl.strategies.hft import freeze, select
from trace_cl.strategies.selection import Selection
from trace_cl.training.engine import cast, checkpoint_gradients
from trace_cl.training.layout import Layout
from trace_cl.training.loss import LanguageModel
from trace_cl.training.memory import Memory, activations, answering, largest_answered, largest_micro_batch
from trace_cl.training.model import build_on_meta


@dataclass
class FakeAnswered:
    """A task as far as it is answered."""

    answer_tokens: int
    prompts: list[list[int]]


HALF = [nn.Parameter(torch.empty(60, device="meta"), False), nn.Parameter(torch.empty(40, device="meta"))]


def test_half_a_bf16_model_on_one_device() -> None:
    """60 × 2 + 40 × 4 bytes of weights, 40 × 4 of gradients, 40 × 8 of AdamW; 7 for the strategy."""
    memory = Memory.of(HALF, torch.bfloat16, Layout(), lambda learning: Bytes(7))
    assert (memory.weights, memory.gradients, memory.optimizer, memory.total) == (280, 160, 320, 767)


def test_half_a_bf16_model_on_four_devices() -> None:
    """Stage 2: 100 × 2 bytes of weights; of 10 parameters each the gradient, the fp32 copy and AdamW's two moments."""
    memory = Memory.of(HALF, torch.bfloat16, Layout(stage=2, ranks=4), lambda learning: Bytes(learning))
    assert (memory.weights, memory.gradients, memory.optimizer, memory.strategy) == (200, 40, 120, 10)
    offloaded = Memory.of(HALF, torch.bfloat16, Layout(stage=2, ranks=4, offload_optimizer=True))
    assert (offloaded.weights, offloaded.gradients, offloaded.optimizer) == (200, 0, 0)
    assert offloaded.host == 10 * (4 + 4 + 4 + 4), "the gradient, the copy and two moments are in main memory"


def test_the_peak_is_that_of_training_or_that_of_answering() -> None:
    assert Memory(1, 2, 4, 8, 16, answering=32, scoring_cache=64, context=128, host=999).total == 128 + 32 + 64
    assert Memory(1, 2, 4, 8, 16, answering=5, scoring_cache=6, context=128).total == 128 + 31


def test_the_largest_micro_batch_is_looked_for_in_every_pool() -> None:
    """Under a budget of 12 tokens: four rows of three against one of eleven; most is answered in the third pool."""
    pools = [[Example([1], [2, 2])] * 5, [Example([1] * 10, [2])], [Example([1], [2] * 9)]]
    assert largest_micro_batch(pools, 12, 128) == (1, 10, 9)
    assert largest_micro_batch(pools[:1], 12, 128) == (4, 2, 8)
    assert largest_micro_batch(pools[:1], 12, 3) == (3, 2, 6), "a step has no more rows"


def test_keys_and_values_of_7b_take_16_gib() -> None:
    """Of 32,768 tokens, as the issue tracker counts them; and what a small model with fewer heads for them keeps."""
    llama = build_on_meta(AutoConfig.for_model("llama", hidden_size=4096, num_hidden_layers=32), torch.bfloat16)
    assert answering(llama, torch.bfloat16, (64, 448 - DRAFT, 64))[1] == 16 * 2**30
    model = model_of(num_key_value_heads=2)
    cache = model(torch.zeros(3, 7 + DRAFT, dtype=torch.long), use_cache=True).past_key_values
    kept = sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))
    assert answering(model, torch.float32, (3, 5, 2))[1] == kept


def test_the_largest_batch_that_is_answered() -> None:
    tasks = [FakeAnswered(2, [[1]] * 5), FakeAnswered(5, [[1] * 4, [1] * 3])]
    assert largest_answered(tasks[:1], 10) == (3, 1, 2)
    assert largest_answered(tasks[1:], 10) == (1, 4, 5)
    assert largest_answered(tasks, 18) == (2, 4, 5), "18 tokens, and not 15"


@pytest.mark.parametrize("learning", [True, False], ids=["fp32", "bf16"])
def test_a_checkpointed_layer_keeps_its_input_as_wide_as_it_is(learning: bool) -> None:
    """Under autocast, in a real forward pass: fp32 where the embeddings learn, else bf16."""
    counted = []
    for layers in (4, 8):
        model = model_of(num_hidden_layers=layers).bfloat16()
        model.get_input_embeddings().requires_grad_(learning)
        counted.append(activations(model, torch.bfloat16, Layout(gradient_checkpointing=True), (4, 30, 8)))
    inputs: list[int] = []
    cast([p for p in model.parameters() if p.requires_grad], torch.float32)
    for layer in model.get_decoder().layers:
        layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0].nbytes))
    batch = Batch(torch.zeros(4, 30, dtype=torch.long), torch.arange(8), torch.zeros(8, dtype=torch.long), 8, [])
    LanguageModel(model, autocast=True)(batch)
    assert inputs == [4 * 30 * 128 * (4 if learning else 2)] * 8
    assert counted[1] - counted[0] == sum(inputs[4:])


@pytest.mark.distributed
def test_two_ranks_hold_what_was_planned(tmp_path: Path) -> None:
    """Half of a model whose norms are small change; within 5% (what is measured is everything that is alive)."""
    sizes = {"hidden_size": 384, "intermediate_size": 1056}
    model = model_of(**sizes)
    frozen = select(model, 1, 1, Selection())
    freeze(model, frozen)
    on_two_ranks(live_bytes_of_a_step_of_each_stage, sizes, frozen, tmp_path)
    for rank in (0, 1):
        for stage, measured in json.loads((tmp_path / f"rank{rank}").read_text()).items():
            planned = Memory.of(model.parameters(), torch.float32, Layout(stage=int(stage), ranks=2))
            weights, with_gradients, after_step = measured
            if stage != "3":  # which has not dealt them out yet
                assert weights == pytest.approx(planned.weights, rel=0.05)
            assert with_gradients == pytest.approx(planned.total, rel=0.05)
            left = planned.total if stage == "3" else planned.total - planned.gradients
            assert after_step == pytest.approx(left, rel=0.05)


def most_allocated(act: Callable[[], object]) -> float:
    """The most bytes that PyTorch's allocator had handed out at once while something was done, as its profiler says."""
    with torch.profiler.profile(profile_memory=True) as profile:
        act()
    assert profile.profiler is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(float(event.nbytes()) for event in events))


SIZES = {"hidden_size": 192, "intermediate_size": 528, "num_hidden_layers": 3, "vocab_size": 4000}


@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("frozen", [False, True], ids=["all of it", "half of it"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_micro_batch_takes_what_was_planned(dtype: torch.dtype, frozen: bool, recomputed: bool) -> None:
    """Against what the allocator hands out in a real step, the gradients of the one before at hand: at most 10%
    off, casts and the loss's own tensors counted."""
    model = model_of(**SIZES).train()
    model.to(dtype)
    if frozen:
        freeze(model, select(model, 1, 1, Selection()))
    layout, (rows, length, answers) = Layout(gradient_checkpointing=recomputed), (3, 60, 90)
    planned = activations(model, dtype, layout, (rows, length, answers))
    if recomputed:
        assert planned < 0.6 * activations(model, dtype, Layout(), (rows, length, answers))
    cast([p for p in model.parameters() if p.requires_grad], torch.float32)
    checkpoint_gradients(model, recomputed)
    objective = LanguageModel(model, autocast=dtype == torch.bfloat16)
    targets = torch.zeros(answers, dtype=torch.long)
    batch = Batch(torch.zeros(rows, length, dtype=torch.long), torch.arange(answers), targets, answers, [])
    objective(batch).backward()
    assert planned == pytest.approx(most_allocated(lambda: objective(batch).backward()), rel=0.1)


@pytest.mark.parametrize("lengths", [(4, 200), (60, 30)], ids=["long prompts", "long answers"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_batch_of_prompts_takes_what_was_planned(dtype: torch.dtype, lengths: tuple[int, int]) -> None:
    """Against what the allocator hands out while they are answered to the longest that may be."""
    model, (answer, longest), rows = model_of(**SIZES).eval(), lengths, 8
    model.to(dtype)
    prompts = [[row + 1] * (longest - row) for row in range(rows)]
    real = most_allocated(lambda: speculative.answer(model, prompts, answer, lambda ids: ids[-1] == 0))
    assert sum(answering(model, dtype, (rows, longest, answer))) == pytest.approx(real, rel=0.1)
