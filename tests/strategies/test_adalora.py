"""AdaLoRA: the budget's schedule, what is pruned by it and the regulariser, each against an independent computation."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support import FakeTask
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedModel

from trace_cl.strategies.adalora import SMOOTHED, AdaLoRA, obliqueness
from trace_cl.strategies.base import Round
from trace_cl.training.engine import Optimization
from trace_cl.training.torch_engine import TorchLearner

TASKS = [FakeTask(name, seed) for seed, name in enumerate("ab")]
ROUNDS = [Round(1, TASKS[:t], [], global_batch=2) for t in (1, 2)]
"""Six steps each."""

TEXT = torch.tensor([[5, 6, 7, 8, 9]])
SMALL: dict[str, Any] = {"r": 2, "initial_r": 4, "alpha": 8, "dropout": 0.0, "initial_share": 0.25, "final_share": 0.25}
"""The budget stays for three of the twelve steps, falls in six, and stays for three."""


@pytest.fixture
def base(small_model: Path) -> LlamaForCausalLM:
    loaded: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64)
    return loaded


def built(strategy: AdaLoRA, base: PreTrainedModel, checkpoint: Path | None = None) -> PreTrainedModel:
    return strategy.build(lambda _: copy.deepcopy(base), checkpoint, ROUNDS)


def diagonals(model: PreTrainedModel) -> dict[str, Tensor]:
    """Each Λ, by the path of what it is a part of."""
    return {name.partition(".lora_E")[0]: p.detach() for name, p in model.named_parameters() if ".lora_E." in name}


def steps(
    strategy: AdaLoRA, model: PreTrainedModel, rounds: list[Round]
) -> Iterator[tuple[dict[str, Any], dict[str, tuple[Tensor, Tensor]]]]:
    """Train; gives after every step what was logged of it, and every weight and gradient that the step began with."""
    for round in rounds:
        names = strategy.trainable(round, 0, model)
        assert names is not None
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
        learner = TorchLearner(model, Optimization(learning_rate=0.03), 4096, strategy.loss)
        strategy.begin_round(round, learner)
        for first in range(0, 12, 2):
            learner.backward(round.task.train[first : first + 2])
            logged = strategy.adjust_gradients(round, learner)
            before = {
                name: (parameter.detach().clone(), parameter.grad.clone())
                for name, parameter in learner.parameters.items()
                if parameter.grad is not None
            }
            learner.step()
            strategy.after_step(round, learner)
            yield logged, before
        strategy.end_round(round, learner)
        learner.close()


def test_the_budget_stays_falls_with_the_third_power_and_stays(base: LlamaForCausalLM) -> None:
    """Over both rounds, of four matrices: 16 triplets at first, 8 in the end."""
    strategy = AdaLoRA(**SMALL)
    model = built(strategy, base)
    budgets, left = [], []
    for logged, _ in steps(strategy, model, ROUNDS):
        budgets.append(logged["budget"])
        left.append(sum(int((diagonal != 0).sum()) for diagonal in diagonals(model).values()))
    cubic = [8 + int(8 * (1 - (step - 3) / 6) ** 3) for step in range(4, 10)]
    assert budgets == [16] * 3 + cubic + [8] * 3
    assert cubic[-1] == 8
    assert left == budgets


def test_what_matters_least_is_pruned(base: LlamaForCausalLM) -> None:
    """Equations 8 to 12 by hand: of w, |w g| smoothed, times its variation smoothed; of a triplet, Λ's plus the means
    over Q's row and P's column."""
    strategy = AdaLoRA(**SMALL)
    model = built(strategy, base)
    averages: dict[str, Tensor] = {}
    variations: dict[str, Tensor] = {}
    compared = 0
    for number, (logged, before) in enumerate(steps(strategy, model, ROUNDS), start=1):
        if number < 9:
            for name, (weight, gradient) in before.items():
                sensitivity = (weight * gradient).abs()
                averages[name] = 0.85 * averages.get(name, 0) + 0.15 * sensitivity
                variations[name] = 0.85 * variations.get(name, 0) + 0.15 * (sensitivity - averages[name]).abs()
        if 3 < number <= 9:
            score = {name: averages[name] * variations[name] for name in averages}
            scores: dict[tuple[str, int], float] = {}
            for path in diagonals(model):
                parts = [score[f"{path}.lora_{side}.default"] for side in "AEB"]
                triplets = parts[0].mean(dim=1) + parts[1][:, 0] + parts[2].mean(dim=0)
                scores |= {(path, index): value for index, value in enumerate(triplets.tolist())}
            least = sorted(scores, key=lambda at: scores[at])[: 16 - logged["budget"]]
            pruned = {(path, i) for path, d in diagonals(model).items() for i in range(4) if d[i, 0] == 0}
            assert pruned == set(least)
            compared += 1
        if number > 9:
            assert {(path, i) for path, d in diagonals(model).items() for i in range(4) if d[i, 0] == 0} == pruned
    assert compared == 6


def test_the_regulariser_is_the_distance_from_orthogonality(base: LlamaForCausalLM) -> None:
    """By hand; and as peft's own forward pass adds it to a loss."""
    orthonormal = torch.linalg.qr(torch.randn(6, 3, dtype=torch.float64)).Q.T
    assert obliqueness(iter([orthonormal])).item() == pytest.approx(0, abs=1e-12)
    twice = 2 * orthonormal
    assert obliqueness(iter([orthonormal, twice])).item() == pytest.approx((9 * 3) ** 0.5 / 2)

    strategy = AdaLoRA(**SMALL, orthogonality=0.3)
    model = built(strategy, base)
    peft: Any = strategy.model
    peft.peft_config["default"].orth_reg_weight = 0.3
    output = model(TEXT, labels=TEXT)
    added = output.loss - cross_entropy(output.logits[0, :-1], TEXT[0, 1:])
    assert added.item() == pytest.approx(0.3 * obliqueness(strategy.factors()).item(), rel=1e-5)  # its loss is in fp32


def test_the_regulariser_counts_once_however_a_step_is_cut(base: LlamaForCausalLM) -> None:
    strategy = AdaLoRA(**SMALL, orthogonality=0.5)
    model = built(strategy, base)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    expected = 0.5 * obliqueness(strategy.factors()).item()
    for budget in (4096, 1):
        learner = TorchLearner(model, Optimization(learning_rate=0.1), budget, strategy.loss)
        learner.backward(TASKS[0].train[:5])
        assert learner.noted["orthogonality"] == pytest.approx(expected)


def test_the_adapter_alone_learns_and_peft_reads_it(base: LlamaForCausalLM, tmp_path: Path) -> None:
    strategy = AdaLoRA(**SMALL)
    model = built(strategy, base)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for _ in steps(strategy, model, ROUNDS):
        pass
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    learns = {name for name in before if ".lora_" in name}
    pruned = {f"{path}.lora_E.default" for path, diagonal in diagonals(model).items() if not diagonal.any()}
    assert moved == learns - pruned
    assert len(pruned) < 4
    strategy.save_model(model, tmp_path, None)
    read = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path, autocast_adapter_dtype=False).eval()
    expected = model(TEXT).logits
    assert (expected - base(TEXT).logits).abs().max() > 1e-4
    torch.testing.assert_close(read(TEXT).logits, expected, rtol=1e-12, atol=1e-12)


def test_it_goes_on_from_a_checkpoint_as_if_nothing_had_happened(base: LlamaForCausalLM, tmp_path: Path) -> None:
    """Stopped between the rounds, while the budget falls."""
    whole = AdaLoRA(**SMALL)
    model = built(whole, base)
    for _ in steps(whole, model, ROUNDS):
        pass
    first, again = AdaLoRA(**SMALL), AdaLoRA(**SMALL)
    stopped = built(first, base)
    for _ in steps(first, stopped, ROUNDS[:1]):
        pass
    assert first.kept
    first.save_model(stopped, tmp_path, None)
    first.save(tmp_path)
    resumed = built(again, base, tmp_path)
    again.restore(tmp_path)
    assert again.kept == first.kept
    assert all(again.smoothed[kind].keys() == set(first.trainable(ROUNDS[0], 0, stopped) or ()) for kind in SMOOTHED)
    for _ in steps(again, resumed, ROUNDS[1:]):
        pass
    assert again.kept == whole.kept
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)), name


def test_a_run_ends_with_the_rank_that_it_may_keep(run: Callable[..., Path]) -> None:
    """Of 24 steps 15 are the first round's; the budget falls from the 17th on."""
    settings = (
        "strategy=adalora",
        "strategy.target_modules=[q_proj,v_proj]",
        "strategy.r=2",
        "strategy.initial_r=3",
        "strategy.initial_share=0.7",
    )
    folder = run(
        *settings,
        "strategy.final_share=0.1",
        "evaluation.zero_shot=false",
        "benchmark.order=[C-STANCE,FOMC]",
        method="adalora",
    )
    saved = load_file(folder / "checkpoint" / "adapter_model.safetensors")
    kept = [int((part != 0).sum()) for name, part in saved.items() if "lora_E" in name]
    assert (len(kept), sum(kept)) == (4, 4 * 2)
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert all(line["loss"] == pytest.approx(line["task_loss"] + line["orthogonality"]) for line in lines)
    assert (lines[0]["budget"], lines[-1]["budget"]) == (12, 8)
    records = [json.loads((folder / "rounds" / f"round{t}.json").read_text())["strategy"] for t in (1, 2)]
    assert [record["average_rank"] for record in records] == [3, 2]


def test_it_says_what_it_takes_while_it_measures(base: LlamaForCausalLM) -> None:
    strategy = AdaLoRA(**SMALL | {"final_share": 0.6})
    built(strategy, base)
    assert strategy.extra_bytes(ROUNDS[0], 10) == (120, 80)
    assert strategy.extra_bytes(ROUNDS[1], 10) == (0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"r": 0},
        {"initial_r": 8},
        {"alpha": 0},
        {"dropout": 1.0},
        {"orthogonality": -1.0},
        {"initial_share": 1.0},
        {"final_share": 0.9},
        {"interval": 0},
        {"beta1": 1.0},
        {"beta2": 0.0},
    ],
)
def test_a_wrong_value_names_its_key(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"strategy.{next(iter(wrong))}"):
        AdaLoRA(**wrong)  # type: ignore[arg-type]
