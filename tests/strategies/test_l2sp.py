"""L2-SP's penalty against autograd, and where it settles against the closed form."""

from pathlib import Path

import pytest
import torch
from support import FakeTask
from transformers import LlamaForCausalLM, PreTrainedModel

from trace_cl.strategies.base import Round
from trace_cl.strategies.l2sp import L2SP
from trace_cl.training.engine import Optimization
from trace_cl.training.torch_engine import TorchLearner

A, B = FakeTask("a", 0), FakeTask("b", 1)
FIRST, SECOND = Round(1, [A], []), Round(1, [A, B], [])


def begun(strategy: L2SP, small_model: Path, round: Round = FIRST) -> tuple[PreTrainedModel, TorchLearner]:
    """A round in which the model has moved before it, and a learner with no gradient at hand."""

    def load(folder: Path | None) -> PreTrainedModel:
        loaded: PreTrainedModel = LlamaForCausalLM.from_pretrained(folder or small_model, dtype=torch.float64)
        return loaded

    model = strategy.build(load, None, [FIRST, SECOND])
    if round is SECOND:
        move(model)
    learner = TorchLearner(model, Optimization(learning_rate=1e-2), 4096)
    strategy.begin_round(round, learner)
    return model, learner


@torch.no_grad()
def move(model: PreTrainedModel) -> None:
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)


def copied(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("anchor", ["base", "round"])
def test_the_penalty_pulls_as_autograd_says(small_model: Path, anchor: str) -> None:
    """λ/2 ‖θ − θ⁰‖², added to what the loss says; θ⁰ is the pretrained model, or the one that the round began with."""
    strategy = L2SP(strength=0.3, anchor=anchor)
    model, learner = begun(strategy, small_model, SECOND)
    base = copied(LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64))
    start = base if anchor == "base" else copied(model)
    move(model)
    learner.backward(B.train[:3])
    plain = {name: part.clone() for name, part in learner.take_gradients().items()}
    learner.put_gradients({name: part.clone() for name, part in plain.items()})
    logged = strategy.adjust_gradients(SECOND, learner)
    pulled = learner.take_gradients()

    weights = dict(model.named_parameters())
    distance = torch.cat([(weights[name] - start[name]).flatten() for name in weights])
    penalty = 0.3 / 2 * distance.dot(distance)
    for name, expected in zip(weights, torch.autograd.grad(penalty, list(weights.values())), strict=True):
        torch.testing.assert_close(pulled[name], plain[name] + expected, rtol=1e-9, atol=1e-12)
    assert logged == {"penalty": pytest.approx(penalty.item())}


def test_it_settles_between_the_task_and_the_start(small_model: Path) -> None:
    """The minimiser of a/2 ‖θ − b‖² + λ/2 ‖θ − θ⁰‖² is (a b + λ θ⁰) / (a + λ)."""
    strategy, a, b, rate = L2SP(strength=0.5), 1.5, 0.2, 0.4
    model, learner = begun(strategy, small_model)
    base = copied(model)
    for _ in range(40):
        learner.put_gradients({name: a * (weight - b) for name, weight in learner.weights().items()})
        strategy.adjust_gradients(FIRST, learner)
        gradients = learner.take_gradients()
        learner.set_weights({name: weight - rate * gradients[name] for name, weight in learner.weights().items()})
    for name, weight in learner.weights().items():
        torch.testing.assert_close(weight, (a * b + 0.5 * base[name]) / (a + 0.5), rtol=0, atol=1e-9)


def test_what_it_keeps_is_what_the_plan_counts(small_model: Path) -> None:
    """In the model's dtype where nothing has learned yet, in fp32 where it may have."""
    for anchor, bytes_a_weight in (("base", 2), ("round", 4)):
        strategy = L2SP(anchor=anchor)
        model = strategy.build(
            lambda _: LlamaForCausalLM.from_pretrained(small_model, dtype=torch.bfloat16), None, [FIRST]
        )
        learner = TorchLearner(model, Optimization(learning_rate=1e-2), 4096)
        strategy.begin_round(FIRST, learner)
        kept = sum(part.nbytes for part in strategy.start.values())
        assert kept == bytes_a_weight * model.num_parameters()
        assert kept == strategy.extra_bytes(FIRST, model.num_parameters()).device
        strategy.end_round(FIRST, learner)
        assert not strategy.start


@pytest.mark.parametrize("wrong", [{"strength": -1.0}, {"strength": float("inf")}, {"anchor": "origin"}])
def test_a_wrong_value_names_its_key(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"strategy.{next(iter(wrong))}"):
        L2SP(**wrong)  # type: ignore[arg-type]
