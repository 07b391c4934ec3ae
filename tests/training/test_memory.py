"""What the dry run says a device must hold: by hand, and against what is there when a model is really trained."""

import json
from pathlib import Path

import pytest
import torch
from ranks import EXAMPLES, live_bytes_of_a_step_of_each_stage, model_of, on_two_ranks
from torch import nn

from trace_cl.data.batches import answer_tokens, collate
from trace_cl.strategies.base import Bytes
from trace_cl.strategies.hft import freeze, select
from trace_cl.strategies.selection import Selection
from trace_cl.training.layout import Layout
from trace_cl.training.loss import LanguageModel
from trace_cl.training.memory import Memory, activations
from trace_cl.training.model import build_on_meta

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


@pytest.mark.parametrize("frozen", [False, True], ids=["all of it", "half of it"])
def test_activations_are_what_autograd_saves(frozen: bool) -> None:
    """Against a real forward pass of the same model, counted as the hooks of PyTorch see it."""
    model = model_of().train()
    if frozen:
        freeze(model, select(model, 1, 1, Selection()))
    batch = collate(EXAMPLES, answer_tokens(EXAMPLES))
    own = {p.data_ptr() for p in model.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        LanguageModel(model)(batch)
    measured = sum(storage.nbytes() for storage in saved.values())

    without_weights = build_on_meta(model.config)
    if frozen:
        freeze(without_weights, select(without_weights, 1, 1, Selection()))
    rows, length = batch.input_ids.shape
    shape = (rows, length, answer_tokens(EXAMPLES))
    assert activations(without_weights, torch.float32, Layout(), shape) == pytest.approx(measured, rel=0.05)
    assert activations(without_weights, torch.float32, Layout(gradient_checkpointing=True), shape) < 0.5 * measured
