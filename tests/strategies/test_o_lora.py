"""O-LoRA: adapters that are added up, and a penalty that keeps them apart, each against an independent computation."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from support import FakeTask
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

from trace_cl.strategies.base import Round, Unsuitable
from trace_cl.strategies.o_lora import FILE, OLoRA, SummedAdapters
from trace_cl.training.engine import Optimization
from trace_cl.training.torch_engine import TorchLearner

TASKS = [FakeTask(name, seed) for seed, name in enumerate("abc")]
ROUNDS = [Round(1, TASKS[:t], []) for t in (1, 2, 3)]
TEXT = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture
def base(small_model: Path) -> LlamaForCausalLM:
    loaded: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64)
    return loaded


def built(strategy: OLoRA, base: PreTrainedModel, checkpoint: Path | None = None) -> PreTrainedModel:
    return strategy.build(lambda _: copy.deepcopy(base), checkpoint, ROUNDS)


def shaken(model: PreTrainedModel) -> PreTrainedModel:
    """With adapters that all do something."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = torch.randn_like(parameter) / 10
    return model


def learner_of(strategy: OLoRA, model: PreTrainedModel, round: Round, rate: float = 1e-2) -> TorchLearner:
    names = strategy.trainable(round, 0, model)
    assert names is not None
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    return TorchLearner(model, Optimization(learning_rate=rate), 4096, strategy.loss)


def test_the_adapters_are_added_up(base: LlamaForCausalLM) -> None:
    """Against plain matrices, merged by hand: W + α/r Σ_i B_i A_i."""
    model = shaken(built(OLoRA(r=2, alpha=6), base))
    merged = copy.deepcopy(base)
    parameters = dict(model.named_parameters())
    for path, module in merged.named_modules():
        if path.endswith(("q_proj", "v_proj")):
            products = [parameters[f"{path}.lora_B{i}"] @ parameters[f"{path}.lora_A{i}"] for i in (1, 2, 3)]
            module.weight.data += 6 / 2 * sum(products)
    expected = merged(TEXT).logits
    assert (expected - base(TEXT).logits).abs().max() > 0.01
    torch.testing.assert_close(model(TEXT).logits, expected, rtol=1e-10, atol=1e-10)


def test_at_first_nothing_is_added_and_every_round_begins_elsewhere(base: LlamaForCausalLM) -> None:
    models = [built(OLoRA(r=2), base) for _ in range(2)]
    assert torch.equal(models[0](TEXT).logits, base(TEXT).logits)
    downs = {name: p for name, p in models[0].named_parameters() if ".lora_A" in name}
    assert len(downs) == 3 * 2 * 2
    assert len({tuple(down.flatten().tolist()) for down in downs.values()}) == len(downs)
    assert all(torch.equal(down, models[1].get_parameter(name)) for name, down in downs.items())
    other = OLoRA(r=2).build(lambda _: copy.deepcopy(base), None, [Round(2, TASKS[:1], [])])
    assert not torch.equal(*(m.get_parameter("model.layers.0.self_attn.q_proj.lora_A1") for m in (models[0], other)))


def test_the_checkpoint_is_one_adapter_that_peft_reads(base: LlamaForCausalLM, tmp_path: Path) -> None:
    strategy = OLoRA(r=2, alpha=6)
    model = shaken(built(strategy, base))
    strategy.save_model(model, tmp_path, None)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 3 * 2
    read = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path, autocast_adapter_dtype=False).eval()
    torch.testing.assert_close(read(TEXT).logits, model(TEXT).logits, rtol=1e-10, atol=1e-10)
    again = OLoRA(r=2, alpha=6)
    resumed = built(again, base, tmp_path)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name))
        assert ".lora_A" not in name or torch.equal(again.frozen[name], parameter)


@pytest.mark.parametrize(("strength", "norm_strength"), [(0.5, 0.0), (0.0, 0.3), (0.7, 0.2)])
def test_the_penalty_pulls_as_autograd_says(base: LlamaForCausalLM, strength: float, norm_strength: float) -> None:
    """λ₁ Σ_{i<3} Σ |A_i A_3ᵀ| + λ₂ (‖A_3‖ + ‖B_3‖), written out; and what is told of it is its value."""
    strategy = OLoRA(strength=strength, norm_strength=norm_strength, r=2)
    model = shaken(built(strategy, base))
    for round in ROUNDS:  # the last one's own too, as after a restart
        strategy.end_round(round, learner_of(strategy, model, round))
    learner = learner_of(strategy, model, ROUNDS[2])
    parameters = dict(model.named_parameters())
    own = {name: p for name, p in parameters.items() if name.endswith(("lora_A3", "lora_B3"))}
    overlaps: list[Tensor] = [
        (parameters[f"{name[:-1]}{i}"] @ down.T).abs().sum()
        for name, down in own.items()
        if "lora_A" in name
        for i in (1, 2)
    ]
    orthogonality = strength * torch.stack(overlaps).sum()
    norms = norm_strength * torch.stack([parameter.square().sum().sqrt() for parameter in own.values()]).sum()
    expected = torch.autograd.grad(orthogonality + norms, list(own.values()), allow_unused=True)

    learner.put_gradients({name: torch.ones_like(p) for name, p in own.items()})
    logged = strategy.adjust_gradients(ROUNDS[2], learner)
    pulled = learner.take_gradients()
    for name, pull in zip(own, expected, strict=True):
        wanted = torch.ones_like(own[name]) if pull is None else 1 + pull
        torch.testing.assert_close(pulled[name], wanted, rtol=1e-10, atol=1e-12)
    values = {"orthogonality": orthogonality.item(), "norms": norms.item()}
    assert logged == pytest.approx({term: value for term, value in values.items() if value}, rel=1e-10)
    assert logged.keys() <= set(strategy.terms)


def test_an_adapter_that_is_still_zero_has_no_norm_to_lower(base: LlamaForCausalLM) -> None:
    strategy = OLoRA(norm_strength=1.0)
    model = built(strategy, base)
    learner = learner_of(strategy, model, ROUNDS[0])
    learner.backward(TASKS[0].train[:2])
    before = learner.take_gradients()
    learner.put_gradients({name: part.clone() for name, part in before.items()})
    logged = strategy.adjust_gradients(ROUNDS[0], learner)
    after = learner.take_gradients()
    assert logged["norms"] > 0
    for name, part in after.items():
        assert torch.equal(part, before[name]) == (".lora_B" in name)


def test_without_strength_it_is_an_adapter_more_a_round_in_peft(base: LlamaForCausalLM) -> None:
    """Bit for bit what is learned without a look at the gradients; to rounding, what peft's own adapters learn."""
    strategy = OLoRA(strength=0.0, r=2, alpha=4, dropout=0.0)
    ours, plain = built(strategy, base), built(strategy, base)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"])
    theirs: Any = get_peft_model(copy.deepcopy(base), config, "1", autocast_adapter_dtype=False)
    theirs.add_adapter("2", config, autocast_adapter_dtype=False)
    theirs.base_model.set_adapter(["1", "2"])
    for name, parameter in theirs.named_parameters():
        if ".lora_A." in name:
            path, number = name.removeprefix("base_model.model.").split(".lora_A.")
            parameter.data = ours.get_parameter(f"{path}.lora_A{number[0]}").detach().clone()

    for round in ROUNDS[:2]:
        for model, adjust in ((ours, True), (plain, False)):
            learner = learner_of(strategy, model, round, rate=1e-3)
            strategy.begin_round(round, learner)
            for _ in range(2):
                learner.backward(round.task.train)
                if adjust:
                    assert strategy.adjust_gradients(round, learner) == {}
                learner.step()
            strategy.end_round(round, learner)
        for name, parameter in theirs.named_parameters():
            parameter.requires_grad_(f".{round.number}.weight" in name and ".lora_" in name)
        learner = TorchLearner(theirs, Optimization(learning_rate=1e-3), 4096)
        for _ in range(2):
            learner.backward(round.task.train)
            learner.step()
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, plain.get_parameter(name))
    for name, parameter in theirs.named_parameters():
        if ".lora_" in name:
            own = name.removeprefix("base_model.model.").removesuffix(".weight").replace("lora_A.", "lora_A")
            ours_too = ours.get_parameter(own.replace("lora_B.", "lora_B"))
            torch.testing.assert_close(ours_too, parameter, rtol=1e-6, atol=1e-9)


def test_this_rounds_adapter_alone_learns(base: LlamaForCausalLM) -> None:
    strategy = OLoRA(r=2)
    model = shaken(built(strategy, base))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    strategy.end_round(ROUNDS[0], learner_of(strategy, model, ROUNDS[0]))
    learner = learner_of(strategy, model, ROUNDS[1])
    learner.backward(TASKS[1].train)
    strategy.adjust_gradients(ROUNDS[1], learner)
    learner.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in before if name.endswith(("lora_A2", "lora_B2"))}


def test_the_penalty_makes_adapters_orthogonal_in_a_run(run: Callable[..., Path], tmp_path: Path) -> None:
    """A_2 to A_1 in the checkpoint: closer to orthogonal than where nothing keeps them apart."""
    overlaps = []
    for strength in (0, 5):
        settings = (
            "strategy=o_lora",
            "strategy.r=2",
            f"strategy.strength={strength}",
            f"runs_dir={tmp_path}/{strength}",
        )
        folder = run(*settings, f"runs_dir={tmp_path}/{strength}", "benchmark.order=[C-STANCE,FOMC]", method="o_lora")
        saved = load_file(folder / "checkpoint" / FILE)
        downs = [down.split(2) for name, down in saved.items() if "lora_A" in name]
        overlaps.append(sum((first @ second.T).abs().sum().item() for first, second in downs))
    assert overlaps[1] < overlaps[0] / 2


def test_it_says_what_it_takes(base: LlamaForCausalLM) -> None:
    """Two layers' q and v of 16 inputs each, rank 2, in float64."""
    strategy = OLoRA(r=2)
    built(strategy, base)
    numbers = 4 * 2 * 16
    assert strategy.extra_bytes(ROUNDS[0], 10) == (0, 2 * 4 * numbers)
    assert strategy.extra_bytes(ROUNDS[2], 10) == (40, (2 * 8 + 2 * 4) * numbers)


def test_an_embedding_is_no_matrix_to_adapt(base: LlamaForCausalLM) -> None:
    with pytest.raises(Unsuitable, match=r"^strategy\.target_modules: model\.embed_tokens is no matrix"):
        built(OLoRA(target_modules=["embed_tokens"]), base)


def test_dropout_is_drawn_by_example_and_only_in_training(base: LlamaForCausalLM) -> None:
    model = built(OLoRA(dropout=0.5), base)
    wrapped = [module for module in model.modules() if isinstance(module, SummedAdapters)]
    assert len({module.dropout.number for module in wrapped}) == len(wrapped) == 4
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(
    "wrong", [{"strength": -1.0}, {"norm_strength": -1.0}, {"r": 0}, {"alpha": 0}, {"dropout": 1.0}]
)
def test_a_wrong_value_names_its_key(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"strategy.{next(iter(wrong))}"):
        OLoRA(**wrong)  # type: ignore[arg-type]
