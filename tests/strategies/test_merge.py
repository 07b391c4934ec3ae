"""Merging: each way against arithmetic of its own, and whole rounds against both."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft.utils.merge_utils import dare_linear
from support import FakeTask
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

from trace_cl.strategies.base import Round
from trace_cl.strategies.hft import freeze
from trace_cl.strategies.merge import HOWS, Merge
from trace_cl.training.engine import Optimization
from trace_cl.training.torch_engine import TorchLearner

A, B = FakeTask("a", 0), FakeTask("b", 1)
FIRST, SECOND = Round(1, [A], []), Round(1, [A, B], [])


@pytest.fixture
def models() -> list[Tensor]:
    """A tensor of the pretrained model's, of the previous round's and of this one's."""
    draw = torch.Generator().manual_seed(3)
    return [torch.randn(20, 50, generator=draw) for _ in range(3)]


def ties_by_hand(vectors: Sequence[Tensor], weights: Sequence[float], density: float) -> Tensor:
    """Algorithm 1 of its paper, number by number, on task vectors of one tensor; weighted, where the paper does not."""
    trimmed = []
    for vector in vectors:
        least = sorted(vector.abs().flatten().tolist(), reverse=True)[int(density * vector.numel()) - 1]
        trimmed.append([x if abs(x) >= least else 0.0 for x in vector.flatten().tolist()])
    merged = []
    for column in zip(*trimmed, strict=True):
        sign = 1 if sum(column) >= 0 else -1
        agreeing = [weight * x for x, weight in zip(column, weights, strict=True) if x * sign > 0]
        merged.append(len(vectors) * sum(agreeing) / max(len(agreeing), 1))
    return torch.tensor(merged, dtype=torch.float64).view_as(vectors[0])


@pytest.mark.parametrize("other", ["base", "previous"])
@pytest.mark.parametrize("weight", [0.3, 0.5, 1.0])
def test_ties_is_algorithm_1_of_its_paper(models: list[Tensor], other: str, weight: float) -> None:
    base, previous, now = models
    merged = Merge("ties", other, weight, density=0.2).merge(
        base, [now] if other == "base" else [previous, now], seed=0
    )
    vectors, weights = [now.double() - base.double()], [weight]
    if other == "previous" and weight < 1:
        vectors, weights = [previous.double() - base.double(), *vectors], [1 - weight, weight]
    expected = base.double() + ties_by_hand(vectors, weights, 0.2)
    torch.testing.assert_close(merged, expected.float(), rtol=0, atol=1e-6)
    assert ((merged == base).double().mean() == 0.8) == (len(vectors) == 1), "what is trimmed is the base's to the bit"


def test_ties_by_an_example() -> None:
    """With nothing trimmed and equal weights: the mean of those with the sign of the sum."""
    base, previous, now = torch.ones(5), torch.tensor([3.0, 3, -1, 1, 1]), torch.tensor([2.0, 0, 2, 4, 1])
    merged = Merge("ties", "previous", 0.5, density=1).merge(base, [previous, now], seed=0)
    assert merged.tolist() == [2.5, 3, -1, 4, 1]


def test_an_average_is_one(models: list[Tensor]) -> None:
    base, previous, now = models
    for density in (0.2, 1):
        of_both = Merge("average", "previous", 0.3, density).merge(base, [previous, now], seed=0)
        torch.testing.assert_close(of_both, 0.7 * previous + 0.3 * now)
        torch.testing.assert_close(
            Merge("average", "base", 0.3, density).merge(base, [now], seed=0), 0.7 * base + 0.3 * now
        )


def test_dare_drops_and_rescales(models: list[Tensor]) -> None:
    """Each number by itself, with probability 1 − density; what is left is scaled up, so that the mean is τ."""
    base, _, now = models
    strategy = Merge("dare", "base", 0.5, density=0.3)
    merged = [strategy.merge(base, [now], seed) for seed in range(300)]
    left = torch.stack([one != base for one in merged])
    assert left.double().mean().item() == pytest.approx(0.3, abs=5 * (0.21 / left.numel()) ** 0.5)
    kept = base + 0.5 * (now - base) / 0.3
    for one, here in zip(merged[:3], left[:3], strict=True):
        torch.testing.assert_close(one, torch.where(here, kept, base))
    vector = 0.5 * (now - base)
    error = vector.abs() * (0.7 / 0.3 / 300) ** 0.5
    mean = torch.stack(merged).mean(0) - base
    assert ((mean - vector).abs() < 6 * error + 1e-6).all()


def test_dares_draw_is_its_seeds(models: list[Tensor]) -> None:
    """As the library draws it; a vector by itself, and no common stream is moved."""
    base, previous, now = (model.double() for model in models)
    strategy = Merge("dare", "previous", 0.25, density=0.4)
    torch.manual_seed(11)
    merged, drawn = strategy.merge(base, [previous, now], seed=5), torch.rand(1)
    assert torch.equal(merged, strategy.merge(base, [previous, now], seed=5))
    assert not torch.equal(merged, strategy.merge(base, [previous, now], seed=6))
    torch.manual_seed(11)
    assert torch.equal(drawn, torch.rand(1))
    torch.manual_seed(5)
    vector = dare_linear([previous - base, now - base], torch.tensor([0.75, 0.25], dtype=torch.float64), 0.4)
    torch.testing.assert_close(merged, base + vector)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_counts_alone_and_is_kept_whole_stays_what_it_is(how: str, dtype: torch.dtype) -> None:
    """To the bit, however far it is from the base."""
    draw = torch.Generator().manual_seed(3)
    base, previous, now = (10.0 ** -(4 * n) * torch.randn(40, 50, generator=draw) for n in range(3))
    for others in ([], [previous]):
        strategy = Merge(how, "previous" if others else "base", weight=1, density=1)
        assert torch.equal(strategy.merge(base.to(dtype), [*others, now], seed=0), now)


def in_rounds(strategy: Merge, small_model: Path, dtype: torch.dtype = torch.float32) -> dict[str, list[Tensor]]:
    """The weights as pretrained, and as two rounds began with them, learned them and ended with them. In the second
    one matrix is frozen."""

    def load(folder: Path | None) -> PreTrainedModel:
        loaded: PreTrainedModel = LlamaForCausalLM.from_pretrained(folder or small_model, dtype=dtype)
        return loaded

    model = strategy.build(load, None, [FIRST, SECOND])
    seen = {name: [parameter.detach().clone()] for name, parameter in model.named_parameters()}

    def see() -> None:
        for name, parameter in model.named_parameters():
            seen[name].append(parameter.detach().clone())

    for round in (FIRST, SECOND):
        see()
        if round is SECOND:
            freeze(model, ["model.layers.0.mlp.up_proj"])
        learner = TorchLearner(model, Optimization(learning_rate=1e-2), 4096)
        strategy.begin_round(round, learner)
        learner.backward(round.task.train)
        learner.step()
        see()
        strategy.end_round(round, learner)
        learner.close()
        see()
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_round_ends_between_where_it_began_and_what_it_learned(small_model: Path, dtype: torch.dtype) -> None:
    for name, (_, began, learned, ended, again, later, last) in in_rounds(Merge(), small_model, dtype).items():
        torch.testing.assert_close(ended, ((began.float() + learned.float()) / 2).to(dtype))
        assert torch.equal(ended, again)
        torch.testing.assert_close(last, ((again.float() + later.float()) / 2).to(dtype))
        assert torch.equal(last, again) == (name == "model.layers.0.mlp.up_proj.weight"), "what does not learn stays"
        assert not torch.equal(ended, began)


def test_a_round_ends_between_the_pretrained_model_and_what_it_learned(small_model: Path) -> None:
    for name, seen in in_rounds(Merge(other="base", weight=0.8), small_model).items():
        base, _, learned, ended, again, later, last = seen
        torch.testing.assert_close(ended, 0.2 * base + 0.8 * learned)
        frozen = name == "model.layers.0.mlp.up_proj.weight"
        torch.testing.assert_close(last, again if frozen else 0.2 * base + 0.8 * later)


def test_every_tensor_of_every_round_has_a_draw_of_its_own(small_model: Path) -> None:
    seen = in_rounds(Merge("dare", "base", 1, density=0.5), small_model)
    kept = {
        (name, round): (seen[name][end] != seen[name][0]).tolist()
        for name in seen
        for round, end in ((1, 3), (2, 6))
        if seen[name][0].shape == (16, 16)
    }
    drawn = list(kept.values())
    assert len(drawn) == 16
    assert all(drawn.count(one) == 1 for one in drawn)


@pytest.mark.parametrize(
    "wrong", [{"how": "slerp"}, {"other": "next"}, {"weight": 0.0}, {"weight": 1.5}, {"density": 0.0}]
)
def test_a_wrong_value_names_its_key(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"strategy.{next(iter(wrong))}"):
        Merge(**wrong)  # type: ignore[arg-type]
