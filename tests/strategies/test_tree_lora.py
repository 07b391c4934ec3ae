"""TreeLoRA: the tree, the bandit and the draw, each against an independent computation."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import architectures
import pytest
import torch
from support import FakeTask, results
from torch import Tensor
from transformers import PreTrainedModel

from trace_cl.strategies.base import Round
from trace_cl.strategies.tree_lora import Node, TreeLoRA
from trace_cl.training.engine import Optimization
from trace_cl.training.torch_engine import TorchLearner

TASKS = [FakeTask(name, seed) for seed, name in enumerate("abcde")]
ROUNDS = [Round(1, TASKS[:t], []) for t in range(1, 6)]
Gradient = dict[str, Tensor]


def built(**settings: Any) -> tuple[TreeLoRA, TorchLearner]:
    """Of a model of four layers, so that the tree may have four levels."""
    strategy = TreeLoRA(r=2, dropout=0.0, **settings)
    model = strategy.build(lambda _: architectures.with_weights("llama", torch.float64), None, ROUNDS)
    return strategy, learner_of(strategy, model)


def learner_of(strategy: TreeLoRA, model: PreTrainedModel) -> TorchLearner:
    names = strategy.trainable(ROUNDS[0], 0, model)
    assert names is not None
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    return TorchLearner(model, Optimization(learning_rate=1e-2), 4096, strategy.loss)


def drawn(learner: TorchLearner, seed: int) -> Gradient:
    torch.manual_seed(seed)
    return {name: torch.randn_like(parameter) for name, parameter in learner.parameters.items()}


def mixed(*shares: tuple[float, Gradient]) -> Gradient:
    """A sum of gradients, each with its share."""
    return {name: sum((share * gradient[name] for share, gradient in shares), torch.zeros(())) for name in shares[0][1]}


def flat(strategy: TreeLoRA, gradient: Gradient, level: int) -> Tensor:
    return torch.cat([gradient[name].flatten() for name in strategy.levels[level]])


def distance(strategy: TreeLoRA, one: Gradient, other: Gradient, level: int) -> float:
    """Between 0 and 1: half of the L1 distance of the directions."""
    a, b = flat(strategy, one, level), flat(strategy, other, level)
    return (a / a.abs().sum() - b / b.abs().sum()).abs().sum().item() / 2


def remember(strategy: TreeLoRA, gradients: list[Gradient]) -> None:
    strategy.kept = {name: torch.stack([gradient[name] for gradient in gradients]) for name in gradients[0]}


def step(
    strategy: TreeLoRA, learner: TorchLearner, round: Round, gradient: Gradient
) -> tuple[Gradient, dict[str, Any]]:
    learner.put_gradients({name: part.clone() for name, part in gradient.items()})
    logged = strategy.adjust_gradients(round, learner)
    return learner.take_gradients(), logged


def test_the_levels_are_spread_over_the_layers() -> None:
    for depth, layers in (
        (4, [[0], [1], [2], [3]]),
        (9, [[0], [1], [2], [3]]),
        (2, [[0, 1], [2, 3]]),
        (1, [[0, 1, 2, 3]]),
    ):
        strategy, learner = built(depth=depth)
        assert sum(map(len, strategy.levels)) == len(learner.parameters) == 4 * 2 * 2
        for names, own in zip(strategy.levels, layers, strict=True):
            assert {int(name.split("layers.")[1][0]) for name in names} == set(own)


@pytest.mark.parametrize("seed", [60, 90])  # whose gradients group otherwise by the first layer
def test_a_group_is_split_at_the_median_distance_from_its_mean(seed: int) -> None:
    """All four past tasks by the second layer; each half by the third."""
    strategy, learner = built()
    gradients = [drawn(learner, seed + k) for k in range(4)]
    remember(strategy, gradients)
    strategy.begin_round(ROUNDS[4], learner)

    rows = torch.stack([flat(strategy, gradient, 1) for gradient in gradients])
    rows = rows / rows.abs().sum(dim=1, keepdim=True)
    far = (rows - rows.mean(dim=0)).abs().sum(dim=1)
    near = [k for k in range(4) if far[k] <= far.median()]
    assert strategy.root.tasks == [0, 1, 2, 3]
    assert [child.tasks for child in strategy.root.children] == sorted([near, [k for k in range(4) if k not in near]])
    for child in strategy.root.children:
        assert [leaf.tasks for leaf in child.children] == [child.tasks[:1], child.tasks[1:]]
        assert all(leaf.level == 2 and not leaf.children for leaf in child.children)


def test_the_search_ends_at_the_past_task_that_brute_force_finds_nearest() -> None:
    """Two families of two tasks each, and steps as noisy as the difference between sisters."""
    for nearest in range(4):
        strategy, learner = built()
        families = [drawn(learner, seed) for seed in (10, 20)]
        past = [mixed((1.0, families[k // 2]), (0.7, drawn(learner, k))) for k in range(4)]
        remember(strategy, past)
        strategy.begin_round(ROUNDS[4], learner)
        found = [sum(distance(strategy, past[nearest], other, level) for level in range(4)) for other in past]
        assert found.index(min(found)) == nearest
        for number in range(60):
            step(strategy, learner, ROUNDS[4], mixed((1.0, past[nearest]), (0.7, drawn(learner, 100 + number))))
        leaves = {node.tasks[0]: node.visits for node in strategy.root if not node.children}
        assert sorted(leaves) == [0, 1, 2, 3]
        assert max(leaves, key=lambda task: leaves[task]) == nearest
        assert leaves[nearest] > 30


def test_every_step_is_counted_on_its_way_down() -> None:
    strategy, learner = built(exploration=1.0)
    gradients = [drawn(learner, seed) for seed in range(4)]
    remember(strategy, gradients)
    strategy.begin_round(ROUNDS[4], learner)
    current = drawn(learner, 9)
    for number in range(1, 12):
        _, logged = step(strategy, learner, ROUNDS[4], current)
        assert strategy.root.visits == number
        assert 0 < logged["gradient_distance"] < 1
        for node in strategy.root:
            assert not node.children or sum(child.visits for child in node.children) == node.visits
    for node in strategy.root:
        if len(node.tasks) == 1:  # a leaf on the third level, which draws the last two
            own = [distance(strategy, current, gradients[node.tasks[0]], level) for level in (2, 3)]
            assert node.distance / node.visits == pytest.approx(sum(own) / 2)
    assert strategy.root.distance / 11 == pytest.approx(
        distance(strategy, current, mixed(*[(1 / flat(strategy, g, 0).abs().sum().item(), g) for g in gradients]), 0)
    )


def test_the_lowest_confidence_bound_is_followed() -> None:
    near, far = Node([0], 1, visits=8, distance=0.3 * 8), Node([1], 1, visits=2, distance=0.4 * 2)
    root = Node([0, 1], 0, [near, far], visits=10)
    widths = [math.sqrt(2 * math.log(10) / n) for n in (8, 2)]
    turning = 0.1 / (widths[1] - widths[0])
    assert root.path(0.0) == [root, near]
    assert root.path(turning * 0.99)[1] is near
    assert root.path(turning * 1.01)[1] is far
    far.visits = 0
    assert root.path(0.0)[1] is far, "what was never asked comes first"


@pytest.mark.parametrize("strength", [0.3, 1.0, 1e6])
def test_a_step_goes_where_its_gradient_and_the_past_ones_agree(strength: float) -> None:
    """argmin_u ½ ‖u − g‖² + λ ‖u − ĝ‖₁, by its subgradient: u − g + λ sign(u − ĝ) = 0, or u = ĝ and |g − ĝ| ≤ λ."""
    strategy, learner = built(strength=strength)
    past, current = drawn(learner, 1), drawn(learner, 2)
    remember(strategy, [past])
    strategy.begin_round(ROUNDS[1], learner)
    moved, _ = step(strategy, learner, ROUNDS[1], current)
    for level in range(4):
        g, u, towards = (flat(strategy, gradient, level) for gradient in (current, moved, past))
        towards = towards * g.abs().sum() / towards.abs().sum()
        reach = strength * (g - towards).abs().mean()
        same = (u - towards).abs() < 1e-12
        assert ((g - towards).abs()[same] <= reach + 1e-12).all()
        torch.testing.assert_close((u - g)[~same], -reach * (u - towards).sign()[~same], rtol=1e-9, atol=1e-12)
        assert same.any()
        assert same.all() == (strength > 100)


def test_of_a_task_the_mean_gradient_is_kept_as_it_was_before_the_draw(tmp_path: Path) -> None:
    strategy, learner = built()
    expected = []
    for number, round in enumerate(ROUNDS[:2]):
        strategy.begin_round(round, learner)
        gradients = [drawn(learner, 10 * number + n) for n in range(3)]
        for gradient in gradients:
            step(strategy, learner, round, gradient)
        strategy.end_round(round, learner)
        expected.append(mixed(*[(1 / 3, gradient) for gradient in gradients]))
    strategy.save(tmp_path)
    again = TreeLoRA()
    again.restore(tmp_path)
    assert again.kept.keys() == learner.parameters.keys()
    for name, kept in again.kept.items():
        assert torch.equal(kept, strategy.kept[name])
        wanted = torch.stack([gradient[name] for gradient in expected])
        torch.testing.assert_close(kept, wanted, rtol=1e-5, atol=1e-6, check_dtype=False)


def test_in_the_middle_of_a_round_it_goes_on() -> None:
    strategy, learner = built()
    remember(strategy, [drawn(learner, seed) for seed in range(3)])
    strategy.begin_round(ROUNDS[3], learner)
    for seed in range(5):
        step(strategy, learner, ROUNDS[3], drawn(learner, seed))
    again, _ = built()
    again.kept = strategy.kept
    again.begin_round(ROUNDS[3], learner)
    again.resume(strategy.hold())
    later = drawn(learner, 7)
    ours, theirs = (step(each, learner, ROUNDS[3], later)[0] for each in (strategy, again))
    assert all(torch.equal(part, theirs[name]) for name, part in ours.items())
    assert again.hold().values == strategy.hold().values
    assert all(torch.equal(part, again.mean[name]) for name, part in strategy.mean.items())


def test_without_strength_it_is_lora_seqft_bit_for_bit(run: Callable[..., Path]) -> None:
    order = "benchmark.order=[C-STANCE,FOMC]"
    plain = run("strategy=lora_seqft", order, method="lora_seqft")
    other = run("strategy=tree_lora", "strategy.strength=0", order, method="tree_lora")
    assert results(plain) == results(other)
    weights = [
        {file.name: file.read_bytes() for file in (folder / "checkpoint").glob("*.safetensors")}
        for folder in (plain, other)
    ]
    assert weights[0]
    assert weights[0] == weights[1]


def test_it_says_what_it_takes() -> None:
    strategy = TreeLoRA()
    assert strategy.extra_bytes(ROUNDS[0], 10) == (40, 40)
    assert strategy.extra_bytes(ROUNDS[2], 10) == (120, 120)
    assert strategy.extra_bytes(Round(1, TASKS[:3], [], last=True), 10) == (80, 80)
    assert TreeLoRA(strength=0.0).extra_bytes(ROUNDS[2], 10) == (0, 0)


@pytest.mark.parametrize(
    "wrong", [{"strength": -1.0}, {"depth": 0}, {"exploration": -1.0}, {"r": 0}, {"alpha": 0}, {"dropout": 1.0}]
)
def test_a_wrong_value_names_its_key(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"strategy.{next(iter(wrong))}"):
        TreeLoRA(**wrong)  # type: ignore[arg-type]
