"""Mixout: what it does to a weight, and that its masks follow the step and nothing else."""

from pathlib import Path

import pytest
import torch
from support import FakeTask
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from trace_cl.strategies.base import Round, Unsuitable
from trace_cl.strategies.hft import freeze
from trace_cl.strategies.mixout import MixedLinear, Mixout
from trace_cl.training.engine import Optimization, checkpoint_gradients
from trace_cl.training.folder import build_on_meta
from trace_cl.training.layout import Layout
from trace_cl.training.memory import activations
from trace_cl.training.torch_engine import TorchLearner

EXAMPLES = FakeTask("a", seed=1).train
ROUND = Round(1, [FakeTask("a", seed=1)], [])
MASKS = pytest.mark.parametrize("mask", ["column", "weight"])


@pytest.fixture(autouse=True)
def step() -> None:
    torch.manual_seed(7)


def mixing(mask: str, p: float = 0.4, outputs: int = 30, inputs: int = 40) -> MixedLinear:
    layer = MixedLinear(nn.Linear(inputs, outputs, dtype=torch.float64), p, mask, number=0)
    layer.base = torch.randn(outputs, inputs, dtype=torch.float64)
    return layer


@MASKS
def test_a_weight_is_the_bases_or_made_up_for(mask: str) -> None:
    """By the definition, (M W⁰ + (1 − M) W − p W⁰) / (1 − p), with M read off the result."""
    layer = mixing(mask)
    mixed, weight, base = layer.mixed(), layer.weight.detach(), layer.base
    assert base is not None
    chosen = (mixed == base).double()
    torch.testing.assert_close(mixed, (chosen * base + (1 - chosen) * weight - 0.4 * base) / 0.6)
    by_column = chosen.mean(0)
    if mask == "column":
        assert set(by_column.tolist()) == {0.0, 1.0}
    else:
        assert chosen.mean().item() == pytest.approx(0.4, abs=4 * (0.24 / 1200) ** 0.5)
        assert 0.05 < by_column.min() < by_column.max() < 0.8


@MASKS
def test_its_mean_is_the_weight(mask: str) -> None:
    """E[W̃] = W and Var[W̃] = (W − W⁰)² p / (1 − p), over 400 steps: within five standard errors."""
    layer = mixing(mask, outputs=5, inputs=6)
    drawn = torch.stack([layer.mixed().detach() for step in range(400) if torch.manual_seed(step)])
    assert layer.base is not None
    deviation = (layer.weight - layer.base).detach().abs() * (0.4 / 0.6) ** 0.5
    assert ((drawn.mean(0) - layer.weight).abs() < 5 * deviation / 400**0.5).all()
    torch.testing.assert_close(drawn.std(0), deviation, rtol=0.06, atol=0)


@MASKS
def test_its_gradient_is_that_of_what_it_computes(mask: str) -> None:
    layer = mixing(mask, outputs=4, inputs=5)
    inputs = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    weight = layer.weight.detach().clone().requires_grad_()
    assert gradcheck(lambda x, w: functional_call(layer, {"weight": w}, (x,)), (inputs, weight))
    mixed = layer.mixed()
    [gradient] = torch.autograd.grad(mixed.sum(), layer.weight)
    assert layer.base is not None
    assert torch.equal(gradient != 0, mixed.ne(layer.base))
    assert gradient.unique().tolist() == pytest.approx([0, 1 / 0.6])


def test_a_step_a_layer_and_nothing_else_tell_masks_apart() -> None:
    layer = mixing("weight")
    first = layer.mixed()
    torch.rand(3)
    assert torch.equal(first, layer.mixed()), "what others draw moves no mask"
    layer.number = 1
    assert not torch.equal(first, layer.mixed())
    layer.number = 0
    torch.manual_seed(8)
    assert not torch.equal(first, layer.mixed())


def test_in_answering_or_frozen_or_never_it_is_the_layer_it_replaced() -> None:
    plain = nn.Linear(4, 5)
    inputs = torch.randn(3, 4)
    for p, training, learns in ((0.4, False, True), (0.4, True, False), (0.0, True, True)):
        layer = MixedLinear(plain, p, "weight", 0).train(training)
        layer.base = torch.zeros(5, 4)
        assert layer.weight is plain.weight
        layer.requires_grad_(learns)
        assert torch.equal(layer(inputs), plain(inputs))
    layer = MixedLinear(plain, 0.4, "weight", 0)
    layer.base = torch.zeros(5, 4)
    assert not torch.equal(layer(inputs), plain(inputs))


def built(small_model: Path, strategy: Mixout) -> PreTrainedModel:
    return strategy.build(lambda _: LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64), None, [ROUND])


def gradients(small_model: Path, budget: int, checkpointing: bool = False, step: int = 7) -> dict[str, Tensor]:
    """A step's, of a model that has moved away from its base."""
    strategy = Mixout(mask="weight")
    model = built(small_model, strategy)
    checkpoint_gradients(model, checkpointing)
    with torch.no_grad():
        for layer in strategy.layers.values():
            layer.weight.mul_(1.5)
    learner = TorchLearner(model, Optimization(learning_rate=0.01), budget)
    strategy.begin_round(ROUND, learner)
    torch.manual_seed(step)
    learner.backward(EXAMPLES)
    return learner.take_gradients()


def test_how_a_batch_is_cut_and_computed_changes_nothing(small_model: Path) -> None:
    whole = gradients(small_model, 10_000)
    for other in (gradients(small_model, 60), gradients(small_model, 60, checkpointing=True)):
        torch.testing.assert_close(other, whole, rtol=0, atol=1e-12)
    later = gradients(small_model, 10_000, step=8)
    assert any((whole[name] - later[name]).abs().max() > 1e-4 for name in whole)


def test_what_is_mixed_in_is_the_pretrained_model_in_all_that_learns(small_model: Path) -> None:
    """In every round, and between rounds nothing of it is kept, or saved with the model."""
    strategy = Mixout()
    model = built(small_model, strategy)
    pretrained = LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64)
    assert [*model.state_dict()] == [*pretrained.state_dict()]
    assert len(strategy.layers) == 14, "q, k, v, o, gate, up, down of two layers"
    freeze(model, ["model.layers.1.mlp.up_proj", "model.layers.0.self_attn.q_proj"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    learner = TorchLearner(model, Optimization(learning_rate=0.01), 4096)
    strategy.begin_round(ROUND, learner)
    for path, layer in strategy.layers.items():
        if path in ("model.layers.1.mlp.up_proj", "model.layers.0.self_attn.q_proj"):
            assert layer.base is None
        else:
            assert torch.equal(layer.base, pretrained.get_parameter(f"{path}.weight"))  # type: ignore[arg-type]
    kept = sum(layer.base.nbytes for layer in strategy.layers.values() if layer.base is not None)
    assert strategy.extra_bytes(ROUND, 0).device == kept == 8 * (4 * 2 * 16 * 16 + 3 * 2 * 16 * 24 - 16 * 16 - 16 * 24)
    assert [*model.state_dict()] == [*pretrained.state_dict()]
    strategy.end_round(ROUND, learner)
    assert all(layer.base is None for layer in strategy.layers.values())


def test_the_plan_counts_the_mixed_weights_among_what_autograd_keeps() -> None:
    """A mixed matrix in place of each that learns, and a mask a matrix; at the peak one more is being made."""
    config = LlamaConfig(
        vocab_size=50, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2
    )
    kept = {}
    for mask in ("column", "weight", "none"):
        model = Mixout(p=0 if mask == "none" else 0.5, mask="column" if mask == "none" else mask).build(
            lambda _: build_on_meta(config), None, [ROUND]
        )
        kept[mask] = activations(model, torch.float32, Layout(), (1, 8, 3))
    matrices = 2 * (4 * 64 * 64 + 3 * 64 * 96)
    for mask, more in (("weight", (4 + 1) * matrices), ("column", 4 * matrices + 2 * (6 * 64 + 96))):
        assert more <= kept[mask] - kept["none"] <= more + 4 * 64 * 96


def test_a_model_without_linear_layers_is_refused() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2))
    with pytest.raises(Unsuitable, match=r"transformer\.h\.0\.attn\.c_attn\.weight of GPT2LMHeadModel is none"):
        Mixout().build(lambda _: model, None, [ROUND])


@pytest.mark.parametrize("wrong", [{"p": 1.0}, {"p": -0.1}, {"mask": "row"}])
def test_a_wrong_value_names_its_key(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"strategy.{next(iter(wrong))}"):
        Mixout(**wrong)  # type: ignore[arg-type]
