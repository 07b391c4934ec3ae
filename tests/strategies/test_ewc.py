"""EWC's Fisher information and penalty, each against an independent computation."""

from pathlib import Path

import pytest
import torch
from support import FakeTask
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedModel

from trace_cl.strategies.base import Round
from trace_cl.strategies.ewc import EWC
from trace_cl.training.engine import Optimization
from trace_cl.training.torch_engine import TorchLearner

A, B = FakeTask("a", 0), FakeTask("b", 1)
FIRST, SECOND = Round(1, [A], []), Round(1, [A, B], [])


@pytest.fixture
def model(small_model: Path) -> PreTrainedModel:
    # Eager attention: the fused one has no rule for vmap.
    loaded: PreTrainedModel = LlamaForCausalLM.from_pretrained(
        small_model, dtype=torch.float64, attn_implementation="eager"
    )
    return loaded


def learner_of(model: PreTrainedModel, rate: float = 1e-2) -> TorchLearner:
    return TorchLearner(model, Optimization(learning_rate=rate), 4096)


def fisher_of(model: PreTrainedModel, task: FakeTask) -> dict[str, torch.Tensor]:
    """The mean of the squared gradients of log p(answer | prompt), all examples of equal length at once."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def log_likelihood(weights: dict[str, torch.Tensor], ids: torch.Tensor, answer: int) -> torch.Tensor:
        logits = functional_call(model, weights, (), {"input_ids": ids[None], "use_cache": False}).logits[0]
        return -cross_entropy(logits[-answer - 1 : -1], ids[-answer:], reduction="sum")

    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    lengths: dict[tuple[int, int], list[list[int]]] = {}
    for example in task.train:
        key = (len(example), len(example.answer))
        lengths.setdefault(key, []).append([*example.prompt, *example.answer])
    for (_, answer), rows in lengths.items():
        scores = vmap(grad(log_likelihood), in_dims=(None, 0, None))(parameters, torch.tensor(rows), answer)
        for name, score in scores.items():
            total[name] += score.square().sum(0)
    return {name: value / len(task.train) for name, value in total.items()}


def test_the_fisher_information_is_the_mean_of_squared_gradients_of_single_examples(model: PreTrainedModel) -> None:
    strategy, learner = EWC(fisher_examples=99), learner_of(model)
    strategy.begin_round(FIRST, learner)
    strategy.end_round(FIRST, learner)
    expected = fisher_of(model, A)
    assert expected.keys() == strategy.kept["fisher"].keys()
    for name, value in expected.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(
            strategy.kept["fisher"][name], value, rtol=1e-6, atol=1e-6 * scale, check_dtype=False
        )
        assert torch.equal(strategy.kept["anchor"][name], model.get_parameter(name))


def test_later_tasks_add_to_what_is_left_of_it(model: PreTrainedModel) -> None:
    strategy, learner = EWC(fisher_examples=99, decay=0.5), learner_of(model)
    for round in (FIRST, SECOND):
        strategy.begin_round(round, learner)
        strategy.end_round(round, learner)
    first, second = fisher_of(model, A), fisher_of(model, B)
    for name, kept in strategy.kept["fisher"].items():
        expected = 0.5 * first[name] + second[name]
        scale = expected.abs().max().item()
        torch.testing.assert_close(kept, expected, rtol=1e-5, atol=1e-5 * scale, check_dtype=False)


def test_the_penalty_pulls_as_autograd_says(model: PreTrainedModel) -> None:
    """λ/2 Σ F (θ − θ*)², and nothing at all where the round begins."""
    strategy, learner = EWC(strength=7.0), learner_of(model)
    strategy.begin_round(FIRST, learner)
    strategy.end_round(FIRST, learner)
    strategy.begin_round(SECOND, learner)
    learner.backward(B.train[:3])
    plain = {name: part.clone() for name, part in learner.take_gradients().items()}
    learner.put_gradients({name: part.clone() for name, part in plain.items()})
    assert strategy.adjust_gradients(SECOND, learner) == {"penalty": 0.0}
    assert all(torch.equal(part, plain[name]) for name, part in learner.take_gradients().items())

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    learner.put_gradients({name: torch.zeros_like(part) for name, part in plain.items()})
    logged = strategy.adjust_gradients(SECOND, learner)
    pulled = learner.take_gradients()
    weights = dict(model.named_parameters())
    kept = strategy.kept
    springs = [(kept["fisher"][name] * (weights[name] - kept["anchor"][name]) ** 2).sum() for name in weights]
    penalty = 7.0 / 2 * torch.stack(springs).sum()
    for name, expected in zip(weights, torch.autograd.grad(penalty, list(weights.values())), strict=True):
        torch.testing.assert_close(pulled[name], expected, rtol=1e-6, atol=1e-12)
    assert logged["penalty"] == pytest.approx(penalty.item(), rel=1e-6)


def test_what_does_not_learn_keeps_its_spring(model: PreTrainedModel) -> None:
    strategy = EWC()
    learner = learner_of(model)
    strategy.begin_round(FIRST, learner)
    strategy.end_round(FIRST, learner)
    before = {name: value.clone() for name, value in strategy.kept["fisher"].items()}
    model.model.layers[0].requires_grad_(False)
    learner = learner_of(model)
    strategy.begin_round(SECOND, learner)
    strategy.end_round(SECOND, learner)
    for name, value in strategy.kept["fisher"].items():
        assert torch.equal(value, before[name]) == name.startswith("model.layers.0."), name


def test_it_survives_a_restart(model: PreTrainedModel, tmp_path: Path) -> None:
    strategy, learner = EWC(), learner_of(model)
    strategy.begin_round(FIRST, learner)
    strategy.end_round(FIRST, learner)
    strategy.save(tmp_path)
    again = EWC()
    again.restore(tmp_path)
    for kind in ("fisher", "anchor"):
        assert again.kept[kind].keys() == strategy.kept[kind].keys()
        assert all(torch.equal(value, strategy.kept[kind][name]) for name, value in again.kept[kind].items())


@pytest.mark.parametrize(
    "wrong", [{"strength": -1.0}, {"strength": float("nan")}, {"decay": 1.5}, {"fisher_examples": 0}]
)
def test_a_wrong_value_names_its_key(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"strategy.{next(iter(wrong))}"):
        EWC(**wrong)  # type: ignore[arg-type]
