"""QLoRA: the 4-bit model and its adapter against plain arithmetic, and what it takes against what it holds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import with_weights, without_weights
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Params4bit
from peft import get_peft_model_state_dict
from ranks import model_of
from safetensors.torch import load_file
from support import FakeTask, compose
from torch import Tensor, nn

from trace_cl import plan
from trace_cl.build import build_strategy
from trace_cl.dry_run import dry_run
from trace_cl.strategies.base import Round, Unsuitable
from trace_cl.strategies.layers import trainable_share
from trace_cl.strategies.qlora import QLoRA, bytes_in_4_bits
from trace_cl.training.engine import Optimization
from trace_cl.training.layout import Layout
from trace_cl.training.memory import Memory, activations
from trace_cl.training.model import frozen_modules
from trace_cl.training.torch_engine import TorchLearner

TASKS = [FakeTask("a", 0)]
ROUNDS = [Round(1, TASKS, [])]
WIDE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128}
"""Two blocks of 64 weights at most go into a row."""
BELOW = [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0]
NF4 = torch.tensor([*BELOW, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0])
"""The paper's values, appendix E, to four digits."""


def whole(packed: Tensor) -> Tensor:
    """A packed matrix's values."""
    assert isinstance(packed, Params4bit)
    values: Tensor = dequantize_4bit(packed.data, packed.quant_state)
    return values


def held(packed: Tensor) -> int:
    """Bytes of all that stands for a packed matrix."""
    assert isinstance(packed, Params4bit)
    state = packed.quant_state
    parts = (packed.data, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
    return sum(part.nbytes for part in parts)


def test_a_weight_is_the_nearest_of_sixteen_times_its_blocks_scale() -> None:
    """Blocks of 64, scaled to their largest; the scales are quantised themselves, by no more than a hundredth."""
    plain = with_weights("llama", **WIDE)
    before = plain.get_parameter("model.layers.0.mlp.up_proj.weight").detach().clone()
    model = QLoRA().build(lambda _: plain, None, [])
    after = whole(model.get_parameter("base_model.model.model.layers.0.mlp.up_proj.base_layer.weight"))
    blocks = before.view(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True)
    nearest = NF4[(blocks[..., None] / scale[..., None] - NF4).abs().argmin(-1)] * scale
    off, least = (after.view(-1, 64) - blocks).abs(), (nearest - blocks).abs()
    assert (off <= least + 0.01 * scale).all()
    assert (after != before).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_gives_the_whole_matrix_and_the_adapter(dtype: torch.dtype) -> None:
    """W x + α/r · B A x, with the bias that the layer had; in evaluation as in training."""
    model = QLoRA(r=4, alpha=6, dropout=0).build(lambda _: with_weights("qwen2", dtype, **WIDE), None, [])
    layer = model.get_submodule("base_model.model.model.layers.1.self_attn.q_proj")
    weight, bias = whole(layer.get_parameter("base_layer.weight")), layer.get_parameter("base_layer.bias").detach()
    a, b = (layer.get_parameter(f"lora_{which}.default.weight") for which in "AB")
    assert a.dtype == b.dtype == dtype
    with torch.no_grad():
        b.normal_()
        bias.normal_()
    rounding = 1e-5 if dtype == torch.float32 else 0.02
    x = torch.randn(3, 64, dtype=dtype)
    expected = x.float() @ (weight.float() + 6 / 4 * b.detach().float() @ a.detach().float()).T + bias.float()
    for training in (True, False):
        for _ in range(2):
            ours = layer.train(training)(x).float()
            torch.testing.assert_close(ours, expected, rtol=rounding, atol=10 * rounding)
        with torch.no_grad():
            again = layer(x).float()
        torch.testing.assert_close(again, ours, rtol=rounding, atol=10 * rounding)
    assert torch.equal(whole(layer.get_parameter("base_layer.weight")), weight)


def test_the_adapter_alone_learns_and_is_saved(tmp_path: Path) -> None:
    sizes = {**WIDE, "vocab_size": 1024, "initializer_range": 0.02}
    strategy = QLoRA(r=4)
    model = strategy.build(lambda _: with_weights("llama", **sizes), None, ROUNDS)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    plan.select_first(strategy, ROUNDS[0], model)
    learner = TorchLearner(model, Optimization(learning_rate=0.1), 4096, strategy.loss)
    losses = [(learner.backward(TASKS[0].train), learner.step())[0] for _ in range(8)]
    learner.close()
    assert losses[-1] < losses[0] - 0.2
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora_" in name}
    assert len(moved) == 2 * 4 * 7, "of four layers' seven matrices"
    strategy.save_model(model, tmp_path, None)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert len(saved) == len(moved)
    again = QLoRA(r=4).build(lambda _: with_weights("llama", **sizes), tmp_path, ROUNDS)
    ours, theirs = get_peft_model_state_dict(model), get_peft_model_state_dict(again)
    assert ours.keys() == theirs.keys() == saved.keys()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())


def test_4_127_bits_a_weight() -> None:
    """The paper's section 3: scales of 8 bits for 64 weights, and of 32 for 256 of these; as planned, and as held."""
    model = QLoRA(r=1).build(lambda _: model_of(intermediate_size=4096, num_hidden_layers=1), None, [])
    packed = model.get_parameter("base_model.model.model.layers.0.mlp.down_proj.base_layer.weight")
    numbers = 128 * 4096
    assert held(packed) == bytes_in_4_bits(numbers)
    tables = 4 * (16 + 256 + 1)  # the same few, however large the matrix
    assert (
        8 * (held(packed) - tables) / numbers
        == pytest.approx(4 + 8 / 64 + 32 / (64 * 256))
        == pytest.approx(4.127, abs=1e-3)
    )
    assert bytes_in_4_bits(65) == 33 + 2 + 4 + tables, "a block that is begun has a scale"


@pytest.mark.parametrize("stage", [0, 2])
def test_what_is_planned_is_what_is_there(stage: int) -> None:
    """Every weight, on one device, where the adapter learns in fp32, and on two, that have a copy of it."""
    there = QLoRA().build(lambda _: with_weights("llama", torch.bfloat16, **WIDE), None, ROUNDS)
    planned = QLoRA().build(lambda _: without_weights("llama", **WIDE).bfloat16(), None, ROUNDS)
    for model in (there, planned):
        plan.select_first(QLoRA(), ROUNDS[0], model)
    weights = sum(held(p) if isinstance(p, Params4bit) else p.nbytes for p in there.parameters())
    learning = sum(p.numel() for p in there.parameters() if p.requires_grad)
    memory = Memory.of(planned.parameters(), torch.bfloat16, Layout(stage=stage, ranks=1 + (stage > 0)))
    assert memory.weights == weights + (2 * learning if stage == 0 else 0)
    assert trainable_share(planned) == trainable_share(there)
    assert frozen_modules(planned) == frozen_modules(there)
    assert activations(planned, torch.bfloat16, Layout(), (2, 9, 4)) > 0


def test_the_plan_counts_4_bits_a_weight() -> None:
    """4.127 bits each of the matrices' weights in the layers, and 16 of all others: of Llama-2-7B with four layers, as
    its 32 are all alike."""
    layers = 4
    config = compose(
        "strategy=qlora",
        "strategy.r=1",
        "model=llama2-chat-7b",
        f"model.architecture.num_hidden_layers={layers}",
        "model.dtype=bf16",
        "benchmark=trace",
    )
    planned = dry_run(config, build_strategy(config))
    matrices = layers * (4 * 4096**2 + 3 * 4096 * 11008)
    others = 2 * 32000 * 4096 + (2 * layers + 1) * 4096
    adapter = layers * (4 * 2 * 4096 + 3 * (4096 + 11008))
    assert planned["parameters"] == matrices + others + adapter
    expected = matrices * 4.127 / 8 + 2 * others + 4 * adapter
    assert planned["memory_per_device"]["weights"] == pytest.approx(expected, rel=1e-3)


def test_wrong_settings_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"strategy\.r=0"):
        QLoRA(r=0)
    with pytest.raises(ValueError, match=r"strategy\.dropout=1"):
        QLoRA(dropout=1)
    with pytest.raises(Unsuitable, match=r"blocks of 64, which do not go into the rows of .*q_proj \(96 wide\)"):
        QLoRA().build(lambda _: without_weights("llama", hidden_size=96), None, [])
    with pytest.raises(Unsuitable, match="has no linear layers"):
        QLoRA().build(lambda _: without_weights("gpt2", n_embd=16, n_layer=2, n_head=2), None, [])
    with pytest.raises(Unsuitable, match="LlamaForCausalLM has no c_attn"):
        QLoRA(target_modules=["c_attn"]).build(lambda _: without_weights("llama", **WIDE), None, [])


def test_chosen_matrices_have_an_adapter_and_all_are_held_in_4_bits(run: Callable[..., Path]) -> None:
    shipped = ("model.path=null", "benchmark.order=[C-STANCE]")
    folder = run("strategy=qlora", "strategy.target_modules=[v_proj]", "strategy.r=2", *shipped, method="qlora")
    names = load_file(folder / "checkpoint" / "adapter_model.safetensors")
    assert len(names) == 2 * 4
    assert all("v_proj" in name for name in names)
    assert not (folder / "checkpoint" / "model.safetensors").exists()
    record = json.loads((folder / "rounds" / "round1.json").read_text())
    assert record["trainable_parameters"] == 4 * 2 * (192 + 192)


def test_nothing_but_the_layers_matrices_is_packed() -> None:
    model = QLoRA().build(lambda _: with_weights("mixtral", **WIDE), None, [])
    packed = {name for name, p in model.named_parameters() if isinstance(p, Params4bit)}
    assert {name.split(".")[-3] for name in packed} == {"q_proj", "k_proj", "v_proj", "o_proj"}, "experts are no layers"
    assert type(model.get_output_embeddings()) is nn.Linear
