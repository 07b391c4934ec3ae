"""OSF: what is preserved of a matrix, against numpy's own decomposition; and that nothing moves it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from architectures import with_weights, without_weights
from safetensors.torch import load_file
from support import FakeTask, compose
from torch import nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel

from trace_cl import plan
from trace_cl.build import build_strategy
from trace_cl.config import as_dict
from trace_cl.dry_run import dry_run
from trace_cl.strategies.base import Round, Unsuitable
from trace_cl.strategies.osf import OSF
from trace_cl.training.engine import Optimization
from trace_cl.training.torch_engine import TorchLearner

TASKS = [FakeTask(name, seed) for seed, name in enumerate("abcd")]
ROUNDS = [Round(1, TASKS[:t], []) for t in (1, 2, 3, 4)]
MATRICES = ("self_attn.q_proj", "mlp.gate_proj", "mlp.down_proj")
"""A square one, one with more rows and one with more columns: 16 × 16, 24 × 16, 16 × 24."""


def built(small_model: Path, dtype: torch.dtype = torch.float32) -> tuple[OSF, PreTrainedModel]:
    model: PreTrainedModel = LlamaForCausalLM.from_pretrained(small_model, dtype=dtype)
    strategy = OSF()
    return strategy, strategy.build(lambda _: model, None, ROUNDS)


def layer_of(model: nn.Module, matrix: str) -> nn.Module:
    return model.get_submodule(f"model.layers.0.{matrix}")


def top(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The preserved part of a matrix: U (out × k), S (k) and V (k × in)."""
    u, s, v = np.linalg.svd(weight.double().numpy(), full_matrices=False)
    return torch.from_numpy(u[:, :rank]), torch.from_numpy(s[:rank]), torch.from_numpy(v[:rank])


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_matrix_is_what_is_preserved_and_what_learns(small_model: Path, matrix: str) -> None:
    strategy, model = built(small_model)
    weight = layer_of(model, matrix).get_parameter("weight").detach().clone()
    strategy.prepare(ROUNDS[0], model)
    assert type(layer_of(model, matrix)) is nn.Linear, "the first round has nothing to preserve"
    for round, rank in zip(ROUNDS[1:], (4, 8, 12), strict=True):
        strategy.prepare(round, model)
        factors = layer_of(model, matrix).get_submodule("osf_svd_params.default")
        u_low, s_low, v_low = (getattr(factors, name).detach().double() for name in ("U_low", "S_low", "V_low"))
        assert len(s_low) == 16 - rank, "a quarter more with every round"
        u, s, v = top(weight, rank)
        torch.testing.assert_close(u * s @ v + u_low * s_low @ v_low, weight.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("matrix", MATRICES)
def test_preserved_directions_stay_whatever_adamw_does(small_model: Path, matrix: str) -> None:
    """Uᵀ(W′ − W) = 0 and (W′ − W)Vᵀ = 0, in the plain matrix that a round leaves behind."""
    strategy, model = built(small_model)
    weight = layer_of(model, matrix).get_parameter("weight").detach().clone()
    plan.select_first(strategy, ROUNDS[2], model)
    learner = TorchLearner(model, Optimization(learning_rate=0.01), 4096, strategy.loss)
    for _ in range(5):
        learner.backward(TASKS[2].train)
        learner.step()
    strategy.end_round(ROUNDS[2], learner)
    learner.close()
    linear = layer_of(model, matrix)
    assert type(linear) is nn.Linear
    moved = linear.weight.detach().double() - weight.double()
    u, _, v = top(weight, 8)
    assert moved.norm() > 0.05 * weight.norm()
    torch.testing.assert_close(u.T @ moved, torch.zeros(8, moved.shape[1]).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(moved @ v.T, torch.zeros(moved.shape[0], 8).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("matrix", MATRICES)
def test_the_gradient_is_the_projected_one(small_model: Path, matrix: str) -> None:
    """Of a loss c·y of y = Wx: ∂/∂W = cxᵀ, from which the factors' gradients follow by hand."""
    strategy, model = built(small_model)
    weight = layer_of(model, matrix).get_parameter("weight").detach().clone()
    strategy.prepare(ROUNDS[2], model)
    layer = layer_of(model, matrix)
    x, c = torch.randn(5, weight.shape[1]), torch.randn(5, weight.shape[0])
    (layer(x) * c).sum().backward()
    factors = layer.get_submodule("osf_svd_params.default")
    u_low, s_low, v_low = (getattr(factors, name).detach() for name in ("U_low", "S_low", "V_low"))
    u, _, v = (part.float() for part in top(weight, 8))
    gradient = c.T @ x
    for name, whole in (
        ("parametrizations.U_low.original", gradient @ v_low.T * s_low),
        ("parametrizations.V_low.original", (u_low * s_low).T @ gradient),
    ):
        expected = whole - u @ (u.T @ whole) if "U_low" in name else whole - whole @ v.T @ v
        assert not torch.allclose(whole, expected, rtol=1e-2)
        torch.testing.assert_close(factors.get_parameter(name).grad, expected, rtol=1e-4, atol=1e-5)
    expected = torch.diagonal(u_low.T @ gradient @ v_low.T)
    torch.testing.assert_close(factors.get_parameter("S_low").grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_bf16_matrix_that_learns_nothing_is_left_as_it_was(small_model: Path, matrix: str) -> None:
    """Its parts are held in fp32: put together of parts in bf16 it would not be the same."""
    strategy, model = built(small_model, torch.bfloat16)
    before = layer_of(model, matrix).get_parameter("weight").detach().clone()
    plan.select_first(strategy, ROUNDS[2], model)
    assert model.dtype == torch.bfloat16
    factors = layer_of(model, matrix).get_submodule("osf_svd_params.default")
    assert {parameter.dtype for parameter in factors.parameters()} == {torch.float32}
    learner = TorchLearner(model, Optimization(learning_rate=0.01), 4096, strategy.loss)
    assert np.isfinite(learner.backward(TASKS[2].train))
    strategy.end_round(ROUNDS[2], learner)
    learner.close()
    assert torch.equal(layer_of(model, matrix).get_parameter("weight"), before)


def test_what_it_keeps_is_counted_by_hand() -> None:
    """Four layers of width 16, MLPs of 24, keys and values of 8; in the third of four rounds half is preserved."""
    for model in (without_weights("llama"), with_weights("llama")):
        strategy = OSF()
        strategy.build(lambda _, model=model: model, None, ROUNDS)  # type: ignore[misc]  # bound to this very model
        plan.select_first(strategy, ROUNDS[2], model)
        learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
        shapes = [(16, 16)] * 2 + [(8, 16)] * 2 + [(24, 16)] * 2 + [(16, 24)]
        low = [(out + into + 1) * (min(out, into) // 2) for out, into in shapes]
        # Of a matrix that is not square, the longer side's preserved directions.
        high = [max(out, into) * (min(out, into) // 2) for out, into in shapes if out != into]
        assert learning == 4 * sum(low)
        assert strategy.extra_bytes(ROUNDS[2], learning) == (4 * 4 * (sum(low) + sum(high)), 0)


def test_a_round_leaves_a_model_that_transformers_loads(run: Callable[..., Path], small_model: Path) -> None:
    folder = run("strategy=osf", method="osf")
    before = load_file(small_model / "model.safetensors")
    after = AutoModelForCausalLM.from_pretrained(folder / "checkpoint").state_dict()
    assert before.keys() == after.keys()
    moved = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert moved == {name for name in before if "_proj" in name}, "no embedding, head or norm"
    records = [json.loads((folder / "rounds" / f"round{t}.json").read_text()) for t in (1, 2, 3)]
    assert [record["strategy"]["preserved_share"] for record in records] == [0, 1 / 3, 2 / 3]
    shares = [record["trainable_share"] for record in records]
    assert shares[0] == 1
    assert shares[1] > shares[2]


def test_the_plan_tells_each_rounds_share() -> None:
    config = compose("strategy=osf", "benchmark.order=[FOMC,NumGLUE-cm]")
    planned = dry_run(config, build_strategy(config))["rounds"]
    width, inside = 192, 512  # the shipped model's
    square, oblong = 2 * width, width + inside

    def share(learning: int) -> float:
        learns = learning * (4 * square + 3 * oblong)
        return learns / (4 * width * width + 3 * width * inside + learns)

    assert [r["trainable_share"] for r in planned] == pytest.approx([1, share(96)])
    assert as_dict(config.strategy)["target_modules"] is None


def test_matrices_that_are_not_there_are_refused() -> None:
    with pytest.raises(Unsuitable, match="LlamaForCausalLM has no linear layer c_attn; choose from q_proj, k_proj"):
        OSF(target_modules=["q_proj", "c_attn"]).build(lambda _: without_weights("llama"), None, ROUNDS)
    with pytest.raises(Unsuitable, match="has no linear layers"):
        OSF().build(lambda _: without_weights("gpt2", n_embd=16, n_layer=2, n_head=2), None, ROUNDS)
