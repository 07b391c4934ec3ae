"""GEM's projection against an independent solver, and a run against forty lines of plain PyTorch."""

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from support import FakeTask
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedModel

from trace_cl.strategies import gem
from trace_cl.strategies.base import Example, Round
from trace_cl.strategies.gem import GEM, inner_products, multipliers, project
from trace_cl.strategies.hft import HalfFineTuning
from trace_cl.strategies.selection import Selection
from trace_cl.training.engine import Optimization
from trace_cl.training.torch_engine import TorchLearner


def problems(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Random gradients and memories, many of them degenerate: parallel, nearly so, opposite, without gradient."""
    rng = np.random.default_rng(7)
    for number in range(count):
        k, p = rng.integers(1, 8), rng.integers(5, 501)
        memories = rng.standard_normal((k, p)) * 10 ** rng.uniform(-3, 3)
        other = 0 if k == 1 else 1
        near = 1e-4 * rng.standard_normal(p) * np.abs(memories).mean()
        match number % 6:
            case 1:
                memories[other] = memories[0] * rng.uniform(0.5, 2) + near
            case 2:
                memories[other] = memories[0]
            case 3:
                memories[other] = -memories[0] * rng.uniform(0.5, 2) + near
            case 4:
                memories[other] = -memories[0]
            case 5:
                memories[rng.integers(k)] = 0
        gradient = rng.standard_normal(p) * 10 ** rng.uniform(-3, 3)
        against = memories.sum(0) * np.linalg.norm(gradient) / max(np.linalg.norm(memories), 1e-9)
        yield gradient - rng.uniform(0, 2) * against, memories


def reference(gradient: np.ndarray, memories: np.ndarray, margin: float, eps: float) -> np.ndarray:
    """The same program as non-negative least squares on the gradients themselves: w = v − margin ≥ 0."""
    stacked = np.vstack([memories.T, np.sqrt(eps) * np.eye(len(memories))])
    start = np.concatenate([gradient, np.zeros(len(memories))]) + stacked @ np.full(len(memories), margin)
    w, _ = nnls(stacked, -start, maxiter=1000)
    return np.asarray(gradient + memories.T @ (w + margin))


@pytest.mark.parametrize(("margin", "eps"), [(0.0, 0.0), (0.5, 1e-3), (0.0, 1e-3), (0.2, 0.0)])
def test_a_thousand_projections_against_non_negative_least_squares(margin: float, eps: float) -> None:
    untouched = 0
    for gradient, memories in problems(1000):
        g, rows = torch.from_numpy(gradient), torch.from_numpy(memories)
        ours = project(g, rows, margin, eps)
        if (memories @ gradient >= 0).all():
            assert torch.equal(ours, g)
            untouched += 1
            continue
        theirs = reference(gradient, memories, margin, eps)
        # Where nothing is left of the gradient, both are rounding errors of it.
        allowed = 1e-6 * max(np.linalg.norm(theirs), 1e-7 * np.linalg.norm(gradient))
        assert np.linalg.norm(ours.numpy() - theirs) <= max(
            allowed, 1e-7 * np.linalg.norm(gradient) * (margin == eps == 0)
        )
        if margin == eps == 0:
            bound = -1e-6 * ours.norm() * rows.norm(dim=1)
            assert (rows @ ours >= bound).all()
    assert untouched < 400


def test_one_memory_by_hand() -> None:
    """g = (1, 0) against g_1 = (−1, 1): with margin 0 and eps 0, v = 1/2, and what is left stands at right angles."""
    projected = project(torch.tensor([1.0, 0.0]), torch.tensor([[-1.0, 1.0]]), margin=0, eps=0)
    torch.testing.assert_close(projected, torch.tensor([0.5, 0.5]))


def test_no_direction_agrees_with_all_memories() -> None:
    memories = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert torch.equal(project(torch.tensor([3.0, -2.0]), memories, margin=0, eps=0), torch.zeros(2))


def test_a_failing_solver_is_told_and_the_second_one_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.array([[2.0, -1.0], [-1.0, 1.0]])
    expected = multipliers(table, 0.0, 0.0)
    monkeypatch.setattr(gem, "SOLVERS", ("no_such_solver", "daqp"))
    with pytest.warns(UserWarning, match="no_such_solver failed"):
        second = multipliers(table, 0.0, 0.0)
    np.testing.assert_allclose(second, expected, rtol=1e-6)  # type: ignore[arg-type]
    monkeypatch.setattr(gem, "SOLVERS", ("no_such_solver",))
    with pytest.warns(UserWarning, match="failed"), pytest.raises(RuntimeError, match="no solver"):
        multipliers(table, 0.0, 0.0)


def test_inner_products_add_up_to_those_of_the_flattened_gradients() -> None:
    torch.manual_seed(0)
    gradients = [{"a": torch.randn(3, 4), "b": torch.randn(5)} for _ in range(4)]
    flat = torch.stack([torch.cat([g["a"].flatten(), g["b"]]) for g in gradients]).double()
    torch.testing.assert_close(inner_products(gradients).sum(0), flat @ flat.T, rtol=1e-6, atol=1e-6)


def reference_gradient(model: PreTrainedModel, examples: list[Example]) -> torch.Tensor:
    losses, tokens = [], 0
    for example in examples:
        ids = torch.tensor([[*example.prompt, *example.answer]])
        logits = model(input_ids=ids).logits[0, len(example.prompt) - 1 : -1]
        losses.append(cross_entropy(logits, ids[0, len(example.prompt) :], reduction="sum"))
        tokens += len(example.answer)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(torch.stack(losses).sum() / tokens, learning)])


@pytest.mark.parametrize("frozen", [False, True])
def test_steps_equal_plain_pytorch_that_flattens_everything(small_model: Path, frozen: bool) -> None:
    """Two past tasks, six steps: the same weights, whether everything learns or (as under HFT) a part."""
    model = LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64)
    tasks = [FakeTask(name, seed) for seed, name in enumerate("abc")]
    strategy = GEM(memory_size=4, memory_batch=2, margin=0.5)
    for t in (1, 2):
        strategy.begin_round(Round(3, tasks[:t], []), Ledger({}))
        strategy.end_round(Round(3, tasks[:t], []), Ledger({}))
    round = Round(3, tasks, [])
    if frozen:
        model.model.layers[0].requires_grad_(False)
    plain = copy.deepcopy(model)
    learning = [parameter for parameter in plain.parameters() if parameter.requires_grad]

    engine = TorchLearner(model, Optimization(learning_rate=1e-2), 4096)
    strategy.begin_round(round, engine)
    optimizer = torch.optim.AdamW(learning, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    projections = 0
    for step in range(6):
        batch = tasks[2].train[2 * step : 2 * step + 2]
        engine.backward(batch)
        told = strategy.adjust_gradients(round, engine)
        engine.step()

        g = reference_gradient(plain, batch)
        rows = []
        for task in tasks[:2]:
            kept = strategy.kept[task.name]
            drawn = Random(f"gem/3/3/{step}/{task.name}").sample(kept, 2)
            rows.append(reference_gradient(plain, [task.train[index] for index in drawn]))
        memories = torch.stack(rows)
        if (memories @ g < 0).any():
            g = torch.from_numpy(reference(g.numpy(), memories.numpy(), 0.5, 1e-3))
        assert told["projected"] == bool((memories @ reference_gradient(plain, batch) < 0).any())
        projections += told["projected"]
        for parameter, part in zip(learning, g.split([p.numel() for p in learning]), strict=True):
            parameter.grad = part.reshape(parameter.shape)
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
    assert projections >= 2
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


class Ledger(TorchLearner):
    """A learner whose gradients are made up: what a strategy does with them is all there is to see."""

    def __init__(self, *gradients: dict[str, torch.Tensor]) -> None:
        self.queue = list(gradients)
        self.taken, self.asked = self.queue.pop(0), 0

    def backward(self, examples: Sequence[Example], weight: float = 1.0) -> float:
        self.taken = self.queue.pop(0)
        self.asked += 1
        return 0.0

    def take_gradients(self) -> dict[str, torch.Tensor]:
        return self.taken

    def put_gradients(self, gradients: dict[str, torch.Tensor]) -> None:
        self.taken = gradients

    def gather(self, parts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return parts

    def scatter(self, whole: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return whole


def test_tensor_by_tensor_touches_only_the_tensor_that_disagrees() -> None:
    round = Round(1, [FakeTask("a", 0), FakeTask("b", 1)], [])
    gradient = {"x": torch.tensor([1.0, 0.0]), "y": torch.tensor([1.0, 1.0])}
    memory = {"x": torch.tensor([-1.0, 1.0]), "y": torch.tensor([1.0, 2.0])}
    for projection, x, y in (("tensor", [0.5, 0.5], [1.0, 1.0]), ("whole", [1.0, 0.0], [1.0, 1.0])):
        strategy = GEM(margin=0.0, eps=0.0, projection=projection)
        strategy.kept["a"] = [0, 1]
        ledger = Ledger({name: part.clone() for name, part in gradient.items()}, memory)
        strategy.begin_round(round, ledger)
        told = strategy.adjust_gradients(round, ledger)
        assert told["projected"] == (projection == "tensor")
        torch.testing.assert_close(ledger.taken, {"x": torch.tensor(x), "y": torch.tensor(y)})


def test_the_last_batch_of_a_task_is_remembered_by_its_gradient(tmp_path: Path) -> None:
    strategy = GEM(margin=0.0, eps=0.0, memory="last_batch")
    tasks = [FakeTask("a", 0), FakeTask("b", 1)]
    first = Round(1, tasks[:1], [])
    strategy.begin_round(first, Ledger({}))
    for value in (7.0, -1.0):
        strategy.adjust_gradients(first, Ledger({"x": torch.tensor([value, 1.0])}))
    strategy.end_round(first, Ledger({}))
    strategy.save(tmp_path)
    resumed = GEM(margin=0.0, eps=0.0, memory="last_batch")
    resumed.restore(tmp_path)
    for each in (strategy, resumed):
        second = Round(1, tasks, [])
        ledger = Ledger({"x": torch.tensor([1.0, 0.0])})
        each.begin_round(second, ledger)
        assert each.adjust_gradients(second, ledger)["projected"]
        torch.testing.assert_close(ledger.taken["x"], torch.tensor([0.5, 0.5]))


def test_refreshing_every_third_step_asks_for_memories_every_third_step() -> None:
    strategy = GEM(refresh_every=3, memory_dtype="bf16")
    strategy.kept["a"] = [0, 1, 2]
    round = Round(1, [FakeTask("a", 0), FakeTask("b", 1)], [])
    strategy.begin_round(round, Ledger({}))
    ledger = Ledger(*[{"x": torch.tensor([1.0, 0.0])} for _ in range(4)])
    for _ in range(7):
        strategy.adjust_gradients(round, ledger)
    assert ledger.asked == 3
    assert strategy.remembered[0]["x"].dtype == torch.bfloat16


def test_memories_are_drawn_from_the_seed_and_survive_a_restart(tmp_path: Path) -> None:
    kept = []
    for seed in (1, 1, 2):
        strategy = GEM(memory_size=5)
        strategy.steps = strategy.projected = 0
        kept.append(strategy.end_round(Round(seed, [FakeTask("a", 0)], []), Ledger({}))["memory"])
    assert kept[0] == kept[1] != kept[2]
    assert len(set(kept[0])) == 5
    strategy.save(tmp_path)
    again = GEM()
    again.restore(tmp_path)
    assert again.kept == {"a": kept[2]} == json.loads((tmp_path / "gem.json").read_text())


def test_what_is_held_is_what_the_dry_run_states(small_model: Path) -> None:
    """Measured: the bytes of the memories' gradients while a step is made, half of the model frozen."""
    for memory_dtype in ("fp32", "bf16"):
        model = LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float32)
        strategy = GEM(memory_dtype=memory_dtype)
        tasks = [FakeTask(name, seed) for seed, name in enumerate("abc")]
        learner = TorchLearner(model, Optimization(learning_rate=1e-3), 4096)
        for t in (1, 2):
            strategy.begin_round(Round(1, tasks[:t], []), learner)
            strategy.end_round(Round(1, tasks[:t], []), learner)
        round = Round(1, tasks, [])
        model.model.layers[1].requires_grad_(False)
        learner = TorchLearner(model, Optimization(learning_rate=1e-3), 4096)
        strategy.begin_round(round, learner)
        learner.backward(tasks[2].train[:2])
        strategy.adjust_gradients(round, learner)
        held = sum(part.nbytes for gradient in strategy.remembered for part in gradient.values())
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        assert held == strategy.extra_bytes(round, trainable).device


@pytest.mark.parametrize("budget", [4096, 40], ids=["one micro-batch", "several"])
@pytest.mark.parametrize("hft", [False, True])
def test_streamed_steps_are_the_stored_ones(small_model: Path, hft: bool, budget: int) -> None:
    """Three past tasks, eight steps, some of them projected: the same weights to rounding, and the same log."""
    tasks = [FakeTask(name, seed) for seed, name in enumerate("abcd")]
    round, weights, logs = Round(3, tasks, []), [], []
    for memory_gradients in ("stored", "streamed"):
        model = LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64)
        gem = GEM(memory_size=4, memory_batch=2, memory_gradients=memory_gradients)
        gem.kept = {task.name: [0, 3, 5, 8] for task in tasks[:3]}
        strategy = HalfFineTuning(gem, Selection()) if hft else gem
        names = strategy.trainable(round, 0, model)
        assert names is not None
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
        learner = TorchLearner(model, Optimization(learning_rate=1e-2), budget)
        gem.begin_round(round, learner)
        told = []
        for step in range(8):
            learner.backward(tasks[3].train[step : step + 4])
            told.append(gem.adjust_gradients(round, learner))
            learner.step()
        assert gem.projected == sum(line["projected"] for line in told)
        weights.append(list(model.parameters()))
        logs.append(told)
    assert 2 <= sum(line["projected"] for line in logs[0]) < 8, "both kinds of steps"
    for ours, theirs in zip(*logs, strict=True):
        assert ours["projected"] == theirs["projected"]
        assert ours["multipliers"] == pytest.approx(theirs["multipliers"], rel=1e-6)
        assert ours["least_inner_product"] == pytest.approx(theirs["least_inner_product"], rel=1e-6)
    for ours, theirs in zip(*weights, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("key", "value"),
    [("memory", "last_batch"), ("projection", "tensor"), ("refresh_every", 2), ("memory_dtype", "bf16")],
)
def test_what_needs_gradients_held_cannot_be_streamed(key: str, value: Any) -> None:
    GEM(**{key: value}, memory_gradients="stored")
    with pytest.raises(ValueError, match=f"memory_gradients=streamed needs strategy.{key}=.*, and not {value}"):
        GEM(**{key: value}, memory_gradients="streamed")


def test_memory_is_one_copy_of_the_trainable_gradients_a_past_task() -> None:
    tasks = [FakeTask(name, 0) for name in "abcd"]
    assert GEM().extra_bytes(Round(1, tasks, []), 1000) == (3 * 1000 * 4, 0)
    assert GEM(memory_dtype="bf16").extra_bytes(Round(1, tasks, []), 1000) == (3 * 1000 * 2, 0)
    assert GEM().extra_bytes(Round(1, tasks[:1], []), 1000) == (0, 0)
    assert GEM(memory_gradients="streamed").extra_bytes(Round(1, tasks, []), 1000) == (0, 0), "the plan counts it"


def test_the_longest_that_a_step_may_look_at() -> None:
    tasks = [FakeTask(name, seed) for seed, name in enumerate("abc")]
    longest = GEM(memory_gradients="streamed", memory_batch=3).streamed(Round(1, tasks, []))
    assert [sorted(map(len, batch)) for batch in longest] == [sorted(map(len, t.train))[-3:] for t in tasks[:2]]
    assert GEM(memory_gradients="stored").streamed(Round(1, tasks, [])) == []
