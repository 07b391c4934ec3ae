"""OGD: what it keeps against autograd, its projection against least squares, and what a step leaves alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support import FakeTask, results
from transformers import LlamaForCausalLM, PreTrainedModel

from trace_cl.strategies.base import Example, Round
from trace_cl.strategies.ogd import OGD, Basis
from trace_cl.training.engine import Optimization
from trace_cl.training.torch_engine import TorchLearner

TASKS = [FakeTask(name, seed) for seed, name in enumerate("abc")]


def load(folder: Path, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    model: PreTrainedModel = LlamaForCausalLM.from_pretrained(folder, dtype=dtype)
    return model


def learner_of(model: PreTrainedModel, strategy: OGD) -> TorchLearner:
    return TorchLearner(model, Optimization(learning_rate=1e-2), 4096, strategy.loss)


def after(strategy: OGD, learner: TorchLearner, rounds: int, tasks: list[FakeTask] = TASKS) -> Round:
    """The round that follows so many, in which nothing moved."""
    for t in range(1, rounds + 1):
        strategy.begin_round(Round(3, tasks[:t], []), learner)
        strategy.end_round(Round(3, tasks[:t], []), learner)
    round = Round(3, tasks[: rounds + 1], [])
    strategy.begin_round(round, learner)
    return round


def true_logits(model: PreTrainedModel, examples: list[Example]) -> torch.Tensor:
    """Of each example the mean of its answer tokens' own logits."""
    means = []
    for example in examples:
        logits = model(input_ids=torch.tensor([[*example.prompt, *example.answer]])).logits[0]
        at = range(len(example.prompt) - 1, len(example) - 1)
        means.append(torch.stack([logits[i, token] for i, token in zip(at, example.answer, strict=True)]).mean())
    return torch.stack(means)


def flat(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.flatten() for part in parts.values()])


def rows(basis: Basis) -> torch.Tensor:
    return torch.cat([matrix[: basis.size] for matrix in basis.rows.values()], dim=1)


def test_what_is_kept_is_the_gradient_of_the_true_tokens_logits(small_model: Path) -> None:
    strategy = OGD(examples=12)
    model = load(small_model)
    learner = learner_of(model, strategy)
    after(strategy, learner, 1)
    found = sorted(flat(whole).norm().item() for whole in strategy.kept)
    expected = []
    for mean in true_logits(model, TASKS[0].train):
        gradient = torch.autograd.grad(mean, list(model.parameters()), retain_graph=True)
        expected.append((mean, torch.cat([part.flatten() for part in gradient])))
    assert found == pytest.approx(sorted(gradient.norm().item() for _, gradient in expected))
    for whole in strategy.kept:
        nearest = min((flat(whole) - gradient).norm().item() for _, gradient in expected)
        assert nearest < 1e-9 * flat(whole).norm().item()
    learner.backward(TASKS[0].train[:2])
    assert learner.backward(TASKS[0].train[:2]) > 0, "the loss is the cross-entropy again"


def test_the_gradient_of_the_loss_may_be_kept_instead(small_model: Path) -> None:
    model, strategy = load(small_model), OGD(examples=1, gradients="loss")
    learner = learner_of(model, strategy)
    after(strategy, learner, 1)
    gradients = []
    for example in TASKS[0].train:
        learner.backward([example])
        gradients.append(flat(learner.take_gradients()))
    assert sum(torch.equal(flat(strategy.kept[0]), gradient) for gradient in gradients) == 1


@pytest.mark.parametrize(("memory_dtype", "rounding"), [("fp32", 1e-6), ("bf16", 1e-2)])
def test_the_basis_is_orthonormal_and_nothing_of_it_is_left_of_a_gradient(
    small_model: Path, memory_dtype: str, rounding: float
) -> None:
    """Over the whole vector, in the precision that is trained in."""
    strategy = OGD(memory_dtype=memory_dtype)
    learner = learner_of(load(small_model, torch.float32), strategy)
    round = after(strategy, learner, 2)
    q = rows(strategy.basis).double()
    assert len(q) == 20
    torch.testing.assert_close(q @ q.T, torch.eye(20, dtype=torch.float64), rtol=0, atol=rounding)
    learner.backward(TASKS[0].train[:4])
    before = flat(learner.take_gradients()).double()
    learner.backward(TASKS[0].train[:4])
    told = strategy.adjust_gradients(round, learner)
    g = flat(learner.take_gradients()).double()
    assert (q @ g).abs().max() < rounding * before.norm()
    assert told["projected"]
    assert told["removed_share"] == pytest.approx(((before - g).norm() / before.norm()).item(), rel=10 * rounding)
    assert 0.01 < told["removed_share"] < 1


def test_directions_that_are_nearly_one_become_orthonormal_all_the_same() -> None:
    torch.manual_seed(0)
    first = torch.randn(500)
    basis = Basis({"x": first}, 5, None, lambda table: table)
    assert all(basis.add({"x": first + 1e-3 * torch.randn(500)}) for _ in range(5))
    q = rows(basis).double()
    torch.testing.assert_close(q @ q.T, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_projection_is_that_of_least_squares(small_model: Path, frozen: bool) -> None:
    """Against the kept gradients themselves, no basis made of them; under HFT of the part that learns in this round."""
    model, strategy = load(small_model), OGD(examples=6)
    after(strategy, learner_of(model, strategy), 2)
    if frozen:
        model.model.layers[0].requires_grad_(False)
    learner = learner_of(model, strategy)
    round = Round(3, TASKS, [])
    strategy.begin_round(round, learner)
    assert (rows(strategy.basis) @ rows(strategy.basis).T - torch.eye(12)).abs().max() < 1e-12
    learner.backward(TASKS[2].train[:4])
    gradient = {name: part.clone() for name, part in learner.take_gradients().items()}
    learner.put_gradients({name: part.clone() for name, part in gradient.items()})
    strategy.adjust_gradients(round, learner)
    kept = torch.stack([flat({name: whole[name] for name in gradient}) for whole in strategy.kept])
    g = flat(gradient).numpy()
    solution, *_ = np.linalg.lstsq(kept.T.numpy(), g, rcond=None)
    np.testing.assert_allclose(flat(learner.take_gradients()).numpy(), g - kept.T.numpy() @ solution, atol=1e-10)


def test_a_step_of_sgd_moves_kept_predictions_to_second_order_alone(small_model: Path) -> None:
    """Half the step, a quarter of the change; half of it without the projection."""
    moved: dict[bool, list[float]] = {True: [], False: []}
    for projected in (True, False):
        for step in (8e-3, 4e-3, 2e-3):
            model, strategy = load(small_model), OGD(examples=12)
            learner = learner_of(model, strategy)
            round = after(strategy, learner, 1)
            before = true_logits(model, TASKS[0].train)
            learner.backward(TASKS[1].train)
            if projected:
                strategy.adjust_gradients(round, learner)
            gradient = learner.take_gradients()
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.sub_(gradient[name], alpha=step)
            moved[projected].append((true_logits(model, TASKS[0].train) - before).norm().item())
    for projected, order in ((True, 4), (False, 2)):
        first, second, third = moved[projected]
        assert [first / second, second / third] == pytest.approx([order, order], rel=0.05)
    assert moved[True][2] < 0.05 * moved[False][2]


def test_a_direction_that_is_known_is_dropped_and_told_of(small_model: Path) -> None:
    again = [FakeTask("a", 0), FakeTask("b", 0), FakeTask("c", 1)]
    strategy = OGD(examples=12)
    learner = learner_of(load(small_model, torch.float32), strategy)
    round = after(strategy, learner, 2, again)
    told = strategy.end_round(round, learner)
    assert told == {"directions": 12, "dropped": 12, "kept": 36}


def test_what_learned_in_no_round_before_is_free(small_model: Path) -> None:
    """Under HFT a task's gradients are of the half that learned it."""
    model, strategy = load(small_model), OGD()
    model.requires_grad_(False).model.layers[0].requires_grad_(True)
    after(strategy, learner_of(model, strategy), 1)
    model.requires_grad_(False).model.layers[1].requires_grad_(True)
    learner = learner_of(model, strategy)
    round = Round(3, TASKS[:2], [])
    strategy.begin_round(round, learner)
    learner.backward(TASKS[1].train)
    assert strategy.adjust_gradients(round, learner) == {}
    assert strategy.end_round(round, learner)["dropped"] == 10


@pytest.mark.parametrize("memory_dtype", ["fp32", "bf16"])
def test_what_is_held_is_what_the_dry_run_states(small_model: Path, memory_dtype: str) -> None:
    model = load(small_model, torch.float32)
    strategy = OGD(examples=5, memory_dtype=memory_dtype)
    learner = learner_of(model, strategy)
    round = after(strategy, learner, 2)
    stated = strategy.extra_bytes(round, model.num_parameters())
    assert stated.device == sum(matrix.nbytes for matrix in strategy.basis.rows.values())
    strategy.end_round(round, learner)
    assert stated.host == sum(part.nbytes for whole in strategy.kept for part in whole.values())
    assert len(strategy.kept) == 15
    assert OGD().extra_bytes(Round(1, TASKS[:1], [], last=True), 1000) == (0, 0), "nothing follows to be protected"


def test_it_survives_a_restart(small_model: Path, tmp_path: Path) -> None:
    strategy, again = OGD(examples=11), OGD(examples=11)
    learner = learner_of(load(small_model), strategy)
    round = after(strategy, learner, 1)
    strategy.save(tmp_path)
    again.restore(tmp_path)
    again.begin_round(round, learner)
    assert torch.equal(rows(again.basis), rows(strategy.basis))
    assert len(again.kept) == 11


def test_no_examples_is_seqft_bit_for_bit(run: Callable[..., Path]) -> None:
    plain, other = run(), run("strategy=ogd", "strategy.examples=0", method="ogd")
    assert results(plain) == results(other)
    weights = [(folder / "checkpoint" / "model.safetensors").read_bytes() for folder in (plain, other)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("wrong", [{"examples": -1}, {"gradients": "both"}, {"memory_dtype": "fp16"}])
def test_a_wrong_value_names_its_key(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"strategy.{next(iter(wrong))}"):
        OGD(**wrong)  # type: ignore[arg-type]
