"""Every architecture learns from its own loss, and what learns is what is said to learn."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from architectures import ARCHITECTURES, with_weights, without_weights
from peft import PromptTuningConfig, get_peft_model
from support import compose
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from trace_cl.data.batches import answer_tokens, collate
from trace_cl.errors import UserError
from trace_cl.strategies.base import Example, Unsuitable
from trace_cl.strategies.hft import freeze, select
from trace_cl.strategies.layers import trainable_share
from trace_cl.strategies.lora_seqft import LoraSeqFT
from trace_cl.strategies.selection import Selection
from trace_cl.tiny import CHECKPOINT
from trace_cl.training.engine import Optimization
from trace_cl.training.loss import LanguageModel
from trace_cl.training.model import build_on_meta, frozen_modules, load_tokenizer
from trace_cl.training.torch_engine import TorchLearner

EXAMPLES = [Example([1, 5, 9, 7, 4], [11, 12, 2]), Example([1, 6], [30, 2]), Example([1, 3, 8], [4])]
"""Of different lengths, so that a batch of them is padded."""


def adapted(architecture: str, targets: list[str]) -> PreTrainedModel:
    """Under an adapter that changes something."""
    model = LoraSeqFT(target_modules=targets).build(lambda _: with_weights(architecture), None, [])
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def prompted() -> PreTrainedModel:
    """Behind a soft prompt of peft's, which stands before every text."""
    model = with_weights("llama")
    tuned = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    return cast(PreTrainedModel, tuned.eval())


MODELS: dict[str, Callable[[], PreTrainedModel]] = {name: partial(with_weights, name) for name in ARCHITECTURES}
MODELS["llama + LoRA"] = partial(adapted, "llama", ["q_proj", "v_proj"])
MODELS["gpt_neox + LoRA"] = partial(adapted, "gpt_neox", ["query_key_value"])
MODELS["llama + prompt"] = prompted
MODELS["opt, projected"] = partial(with_weights, "opt", word_embed_proj_dim=8)


def own_logits(model: PreTrainedModel, examples: Sequence[Example]) -> Tensor:
    """N × vocabulary: what the model itself says before each answer token, an example at a time."""
    rows = []
    for example in examples:
        tokens = torch.tensor([[*example.prompt, *example.answer]])
        own = model(input_ids=tokens).logits[0, -tokens.shape[1] :]
        rows.append(own[len(example.prompt) - 1 : -1])
    return torch.cat(rows)


def close(actual: Tensor, expected: Tensor, rounding: float = 1e-5) -> bool:
    return bool((actual - expected).abs().max() <= rounding * expected.abs().max())


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_logits_are_the_models_own_at_answer_positions_alone(name: str) -> None:
    model = MODELS[name]()
    rows: list[int] = []
    head = model.get_output_embeddings()
    hook = head.register_forward_hook(lambda _, inputs, output: rows.append(inputs[0].shape[:-1].numel()))
    logits = LanguageModel(model).logits(collate(EXAMPLES, total=6))
    hook.remove()
    assert rows == [6]
    assert logits.shape == (6, 32)
    assert close(logits, own_logits(model, EXAMPLES))


@pytest.mark.parametrize("name", ["gemma2", "granite", "cohere"])
@torch.no_grad()
def test_the_bare_head_would_not_do(name: str) -> None:
    """What the test above is able to see: these do something with the logits after the head."""
    model = MODELS[name]()
    tokens = torch.tensor([EXAMPLES[0].prompt])
    bare = model.get_output_embeddings()(model.get_decoder()(input_ids=tokens).last_hidden_state)
    assert not close(bare, model(input_ids=tokens).logits, rounding=0.1)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_loss_is_the_models_own(name: str) -> None:
    model = MODELS[name]()
    total = answer_tokens(EXAMPLES)
    expected = torch.zeros(())
    for example in EXAMPLES:
        tokens = torch.tensor([[*example.prompt, *example.answer]])
        labels = torch.tensor([[-100] * len(example.prompt) + example.answer])
        expected += model(input_ids=tokens, labels=labels).loss * len(example.answer) / total
    assert close(LanguageModel(model).mean(collate(EXAMPLES, total)), expected)


# Frozen in bf16, torch's own LayerNorm takes what is learned in fp32 on a GPU alone, where autocast knows of it.
@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [
        *((name, torch.float32) for name in ARCHITECTURES),
        *((name, torch.bfloat16) for name in ARCHITECTURES if name not in ("gpt_neox", "opt")),
    ],
)
def test_a_step_under_hft_moves_what_learns_and_nothing_else(architecture: str, dtype: torch.dtype) -> None:
    model = with_weights(architecture, dtype)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    freeze(model, select(model, 1, 1, Selection()))
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    learner = TorchLearner(model, Optimization(0.1, (0.9, 0.95), 1e-8, 0.0, 1.0), 1024)
    learner.backward(EXAMPLES)
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == learning
    learner.step()
    learner.close()
    assert {
        name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])
    } == learning
    assert all(parameter.dtype == dtype for parameter in model.parameters())


def test_the_share_counts_every_expert() -> None:
    model = without_weights("qwen2_moe")
    attention = 2 * 16 * 16 + 2 * 16 * 8
    experts, shared, routers = 4 * 3 * 16 * 8, 3 * 16 * 12, 4 * 16 + 16
    everything = attention + experts + shared + routers
    assert trainable_share(model) == 1
    for parts, learning in (
        (("mlp.experts.",), experts),
        (("mlp.experts.down_proj",), experts / 3),
        (("shared_expert.", "self_attn."), shared + attention),
        (("mlp.gate.", "shared_expert_gate."), routers),
        (("norm", "bias", "embed", "lm_head"), 0),
    ):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(part in name for part in parts))
        assert trainable_share(model) == pytest.approx(learning / everything, abs=1e-12)


def test_an_adapter_is_counted_among_the_layers_matrices() -> None:
    model = LoraSeqFT(r=2).build(lambda _: without_weights("llama"), None, [])
    layer = 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 24
    adapter = 2 * (16 + 16) + 2 * (16 + 8)
    assert trainable_share(model) == pytest.approx(adapter / (layer + adapter), abs=1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_frozen_modules_are_those_that_were_selected(architecture: str) -> None:
    model = without_weights(architecture)
    selected = select(model, 1, 1, Selection(embeddings="freeze"))
    freeze(model, selected)
    followers = {name for name in frozen_modules(model) if name.endswith(("q_norm", "k_norm"))}
    tied = {"lm_head"} if model.config.tie_word_embeddings else set()
    assert set(frozen_modules(model)) - followers - tied == set(selected)


@pytest.mark.parametrize(
    ("architecture", "wanted", "chosen"),
    [
        ("llama", ["q_proj", "v_proj"], ["q_proj", "v_proj"]),
        ("llama", None, ["q_proj", "v_proj"]),
        ("gpt_neox", None, ["query_key_value"]),
        ("phi3", ["qkv_proj", "mlp.down_proj"], ["qkv_proj", "mlp.down_proj"]),
    ],
)
def test_an_adapters_matrices(architecture: str, wanted: list[str] | None, chosen: list[str]) -> None:
    model = LoraSeqFT(target_modules=wanted).build(lambda _: without_weights(architecture), None, [])
    under = {name.partition(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    assert len(under) == 4 * len(chosen)
    assert all(name.endswith(tuple(chosen)) for name in under)


@pytest.mark.parametrize(
    ("architecture", "wanted", "sentence"),
    [
        ("phi3", ["q_proj", "v_proj"], "Phi3ForCausalLM has no q_proj; choose from o_proj, qkv_proj, gate_up_proj"),
        ("gpt_neox", ["q_proj"], "GPTNeoXForCausalLM has no q_proj; choose from query_key_value, dense"),
        ("llama", ["q_proj", "w_proj"], "LlamaForCausalLM has no w_proj; choose from q_proj, k_proj"),
        ("llama", ["mlp"], "LlamaForCausalLM has no mlp; choose from q_proj"),
        ("mixtral", ["down_proj"], "MixtralForCausalLM has no down_proj; choose from q_proj, k_proj, v_proj, o_proj$"),
        ("phi3", None, "peft has no choice of its own for Phi3ForCausalLM; choose from o_proj, qkv_proj"),
    ],
)
def test_an_adapter_of_matrices_that_are_not_there(architecture: str, wanted: list[str] | None, sentence: str) -> None:
    with pytest.raises(Unsuitable, match=rf"^strategy\.target_modules: {sentence}"):
        LoraSeqFT(target_modules=wanted).build(lambda _: without_weights(architecture), None, [])


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., str]:
    """Save a small random model with the shipped tokenizer; gives the override that chooses it."""

    def save(architecture: str, **sizes: Any) -> str:
        tokenizer = load_tokenizer(str(CHECKPOINT))
        folder = tmp_path / architecture
        model = with_weights(architecture, vocab_size=len(tokenizer), initializer_range=0.02, **sizes)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return f"model.path={folder}"

    return save


@pytest.mark.parametrize(
    ("architecture", "overrides", "sentence"),
    [
        ("gpt2", ("hft=true",), "HFT cannot tell the matrices in a layer of GPT2LMHeadModel apart"),
        ("gpt_neox", ("strategy=lora_seqft",), "strategy.target_modules: GPTNeoXForCausalLM has no q_proj"),
    ],
)
@pytest.mark.parametrize("dry", ["true", "false"])
def test_what_does_not_fit_is_said_before_anything_is_written(
    run: Callable[..., Path],
    saved: Callable[..., str],
    tmp_path: Path,
    architecture: str,
    overrides: Sequence[str],
    sentence: str,
    dry: str,
) -> None:
    with pytest.raises(UserError, match=f"^model=tiny: {sentence}"):
        run(saved(architecture), *overrides, f"dry_run={dry}")
    assert not (tmp_path / "runs").exists()


def test_a_mixture_of_experts_in_a_whole_run(
    run: Callable[..., Path], saved: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    mixtral = saved("mixtral", num_hidden_layers=2)
    run(mixtral, "hft=true", "dry_run=true")
    planned = json.loads(capsys.readouterr().out)
    folder = run(mixtral, "hft=true", method="seqft+hft")
    records = [json.loads((folder / f"rounds/round{t}.json").read_text()) for t in (1, 2, 3)]
    assert [record["trainable_share"] for record in records] == [0.5] * 3
    assert [record["frozen_modules"] for record in records] == [r["frozen_modules"] for r in planned["rounds"]]
    assert any(name.endswith("experts.gate_up_proj") for name in records[0]["frozen_modules"])
    assert planned["memory_per_device"]["activations"] > 0


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3_text", "qwen3"])
def test_a_whole_run_of_the_small_models_architectures(
    run: Callable[..., Path], saved: Callable[..., str], architecture: str
) -> None:
    folder = run(
        saved(architecture, num_hidden_layers=2), "hft=true", "training.learning_rate=1e-2", method="seqft+hft"
    )
    records = [json.loads((folder / f"rounds/round{t}.json").read_text()) for t in (1, 2, 3)]
    assert [record["trainable_share"] for record in records] == [0.5] * 3
    steps = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    losses = [step["loss"] for step in steps if step["round"] == 1]
    assert losses[-1] < losses[0]
    scores = [score for record in records for score in record["scores"]["standard"].values()]
    assert len(scores) == 1 + 2 + 3
    assert all(0 <= score <= 100 for score in scores)


@pytest.mark.parametrize(
    ("name", "parameters", "without_embeddings"),
    [  # as the model cards and reports have them, in millions, to as many digits as they print
        ("llama3.2-1b", (1230, 10), None),
        ("llama3.2-3b", (3210, 10), None),
        ("qwen3-0.6b", (600, 100), (440, 10)),
        ("qwen3-1.7b", (1700, 100), (1400, 100)),
        ("qwen3-4b", (4000, 100), (3600, 100)),
        ("gemma2-2b", (2600, 100), (2024.517888, 1e-6)),
        ("gemma3-1b", (999.885952, 1e-6), (698, 1)),
    ],
)
def test_a_models_sizes_come_to_the_published_count(
    name: str, parameters: tuple[float, float], without_embeddings: tuple[float, float] | None
) -> None:
    model = build_on_meta(AutoConfig.for_model(**compose(f"model={name}").model.architecture))
    counted, embeddings = model.num_parameters(), sum(p.numel() for p in model.get_input_embeddings().parameters())
    assert counted / 1e6 == pytest.approx(parameters[0], abs=parameters[1])
    if without_embeddings is not None:
        assert (counted - embeddings) / 1e6 == pytest.approx(without_embeddings[0], abs=without_embeddings[1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_can_be_planned(
    run: Callable[..., Path], saved: Callable[..., str], capsys: pytest.CaptureFixture[str], architecture: str
) -> None:
    run(saved(architecture), "hft=true", "dry_run=true")
    planned = json.loads(capsys.readouterr().out)
    assert [r["trainable_share"] for r in planned["rounds"]] == [0.5] * 3
