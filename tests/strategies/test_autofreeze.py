"""AutoFreeze: its decisions worked out by hand, and against plain PyTorch; what it freezes only grows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import FakeTask, results
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from trace_cl.strategies.autofreeze import AutoFreeze, first_unsettled
from trace_cl.strategies.base import Round
from trace_cl.training.engine import Optimization
from trace_cl.training.torch_engine import TorchLearner

Run = Callable[..., Path]
DEPTH = 4
TASK = FakeTask("a", 0, epochs=6)
ROUND = Round(1, [TASK], [], global_batch=3)  # six epochs of four steps


def model_of(tied: bool = False) -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=1000,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=DEPTH,
            num_attention_heads=2,
            tie_word_embeddings=tied,
        )
    )


def begun(model: PreTrainedModel, **settings: Any) -> tuple[AutoFreeze, TorchLearner]:
    strategy = AutoFreeze(**settings)
    strategy.build(lambda _: model, None, [])
    learner = TorchLearner(model, Optimization(learning_rate=1e-2), 4096)
    strategy.begin_round(ROUND, learner)
    return strategy, learner


def gradients(norms: list[float], sign: int = 1) -> dict[str, torch.Tensor]:
    """A gradient whose layers have these L1 norms."""
    return {
        f"model.layers.{layer}.x.weight": torch.tensor([sign * norm / 2, -norm / 2]) for layer, norm in enumerate(norms)
    }


class Given(TorchLearner):
    """A learner whose gradients are made up."""

    def __init__(self) -> None:
        self.now: dict[str, torch.Tensor] = {}

    def take_gradients(self) -> dict[str, torch.Tensor]:
        return self.now

    def put_gradients(self, gradients: dict[str, torch.Tensor]) -> None:
        self.now = gradients


def test_decisions_by_hand() -> None:
    """Tests every second step; the first has nothing to compare with."""
    model, learner = model_of(), Given()
    strategy = AutoFreeze(tests=2)
    strategy.build(lambda _: model, None, [])
    strategy.begin_round(ROUND, learner)

    def step(norms: list[float], sign: int = 1) -> dict[str, Any]:
        learner.now = gradients(norms, sign)
        return strategy.adjust_gradients(ROUND, learner)

    assert step([1, 1, 1, 1]) == {"frozen_layers": 0}
    assert step([1, 1, 1, 1]) == {"frozen_layers": 0, "gradient_change": {}}
    assert strategy.trainable(ROUND, 2, model) is None
    step([1, 1, 1, 1])
    # Sums 2.2, 2.6, 4, 3 against 2 each: changes 0.1, 0.3, 1, 0.5, whose median is 0.4: layer 2 is the first above.
    change = step([1.2, 1.6, 3, 2])["gradient_change"]
    assert change == pytest.approx({"0": 0.1, "1": 0.3, "2": 1, "3": 0.5})
    names = strategy.trainable(ROUND, 4, model)
    assert names is not None
    assert {name.split(".")[2] for name in names if ".layers." in name} == {"2", "3"}
    assert "model.embed_tokens.weight" not in names
    assert {"model.norm.weight", "lm_head.weight"} <= set(names)
    assert strategy.trainable(ROUND, 5, model) is None, "told once"
    # A gradient and its opposite add up to nothing, however large both are.
    learner.now = {name: part for name, part in gradients([0, 0, 8, 3]).items() if "2" in name or "3" in name}
    assert strategy.adjust_gradients(ROUND, learner) == {"frozen_layers": 2}
    learner.now = {name: -part / 2 for name, part in learner.now.items()}
    # Sums 4 against 4 and 1.5 against 3: changes 0, 0.5, whose median is 0.25.
    assert strategy.adjust_gradients(ROUND, learner)["gradient_change"] == pytest.approx({"2": 0, "3": 0.5})
    names = strategy.trainable(ROUND, 6, model)
    assert names is not None
    assert {name.split(".")[2] for name in names if ".layers." in name} == {"3"}


@pytest.mark.parametrize(
    ("change", "percentile", "first"),
    [
        ([0.1, 0.2, 0.3], 50, 1),
        ([0.3, 0.2, 0.1], 50, 0),  # the front has changed most: all go on
        ([0.1, 0.9, 0.2, 0.3], 50, 1),
        ([0.1, 0.2, 0.3], 100, 2),
        ([0.3, 0.1, 0.2], 0, 0),
        ([0.1, 0.1, 0.1], 50, 0),
    ],
)
def test_the_first_layer_that_has_not_settled(change: list[float], percentile: float, first: int) -> None:
    assert first_unsettled(dict(enumerate(change)), percentile) == first


def test_a_run_of_steps_against_plain_pytorch() -> None:
    """Sums, norms, medians and the frozen front over a whole round: a front that only grows, gradients left alone."""
    model = model_of()
    strategy, learner = begun(model, tests=2)
    sums: dict[int, torch.Tensor] = {}
    before: dict[int, float] = {}
    frozen, fronts = 0, []
    for step in range(24):
        names = strategy.trainable(ROUND, step, model)
        if names is not None:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in names)
            learner.change()
        learning = {n for n, layer in enumerate(model.model.layers) if layer.mlp.up_proj.weight.requires_grad}
        assert learning == set(range(frozen, DEPTH))
        assert model.model.embed_tokens.weight.requires_grad == (frozen == 0)
        at = 3 * step % 12
        learner.backward(TASK.train[at : at + 3])
        for n in learning:
            own = torch.cat([p.grad.flatten() for p in model.model.layers[n].parameters() if p.grad is not None])
            sums[n] = sums.get(n, 0) + own
        untouched = {name: p.grad.clone() for name, p in learner.parameters.items() if p.grad is not None}
        strategy.adjust_gradients(ROUND, learner)
        assert all(torch.equal(p.grad, untouched[n]) for n, p in learner.parameters.items() if p.grad is not None)
        learner.step()
        if step % 2 == 1:
            norms = {n: float(total.double().abs().sum()) for n, total in sums.items()}
            if before:
                change = [abs(before[n] - norms[n]) / before[n] for n in sorted(norms)]
                median = float(np.median(change))
                frozen += next(i for i, value in enumerate(change) if value >= median * (1 - 1e-9))
            before, sums = norms, {}
        fronts.append(frozen)
    assert fronts == sorted(fronts)
    assert fronts[-1] > 0
    assert strategy.end_round(ROUND, learner) == {"frozen_layers": fronts[-1]}
    strategy.begin_round(ROUND, learner)
    assert strategy.trainable(ROUND, 0, model) == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("tied", [False, True])
def test_an_embedding_that_is_the_head_goes_on_learning(tied: bool) -> None:
    model = model_of(tied)
    strategy, _ = begun(model)
    strategy.frozen, strategy.due = 1, True
    names = strategy.trainable(ROUND, 3, model)
    assert names is not None
    assert ("model.embed_tokens.weight" in names) == tied


def test_the_percentile_0_is_seqft_bit_for_bit(run: Run) -> None:
    plain = run()
    other = run("strategy=autofreeze", "strategy.percentile=0", method="autofreeze")
    assert results(plain) == results(other)
    weights = [(folder / "checkpoint" / "model.safetensors").read_bytes() for folder in (plain, other)]
    assert weights[0] == weights[1]


def test_under_hft_layers_without_anything_that_learns_are_passed_over(run: Run) -> None:
    folder = run("strategy=autofreeze", "hft=true", "selection=layer", "strategy.tests=1", method="autofreeze+hft")
    steps = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    seen = {(step["round"], *step["gradient_change"]) for step in steps if step.get("gradient_change")}
    assert len({number for number, *_ in seen}) == 3
    assert all(len(layers) == 1 for _, *layers in seen)


def test_what_is_held_is_one_gradient() -> None:
    assert AutoFreeze().extra_bytes(ROUND, 1000) == (4000, 0)


@pytest.mark.parametrize("wrong", [{"tests": 0}, {"percentile": 101.0}, {"percentile": -1.0}])
def test_a_wrong_value_names_its_key(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"strategy.{next(iter(wrong))}"):
        AutoFreeze(**wrong)
