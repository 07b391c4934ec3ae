"""HFT against the paper's figures, counted on models without weights."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, without_weights
from support import FakeTask, compose
from torch import nn
from transformers import (
    AutoConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Trainer,
    TrainingArguments,
)

from trace_cl.strategies.base import Round, Unsuitable
from trace_cl.strategies.gem import GEM
from trace_cl.strategies.hft import HalfFineTuning, HalfFineTuningCallback, freeze, select
from trace_cl.strategies.layers import Block, decoder_layers, layers, trainable_share
from trace_cl.strategies.selection import Selection
from trace_cl.training.model import build_on_meta

ROUNDS = range(1, 9)
SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}


def named(name: str) -> PreTrainedModel:
    return build_on_meta(AutoConfig.for_model(**compose(f"model={name}").model.architecture))


def small(**sizes: Any) -> PreTrainedModel:
    return build_on_meta(LlamaConfig(**{**SIZES, **sizes}))


def names(block: Block) -> set[str]:
    return {module.name for module in block}


def share(model: nn.Module, round: int, selection: Selection, seed: int = 1) -> float:
    model.requires_grad_(True)
    freeze(model, select(model, round, seed, selection))
    return trainable_share(model)


@pytest.mark.parametrize(
    "name", ["llama2-chat-7b", "llama2-chat-13b", "llama3-8b", "llama3.2-3b", "qwen2.5-7b", "qwen3-4b", "gemma2-2b"]
)
def test_exactly_half_learns_in_every_round(name: str) -> None:
    model = named(name)
    assert [share(model, round, Selection()) for round in ROUNDS] == [0.5] * 8


@pytest.mark.parametrize(
    ("attention", "mlp", "percent"),
    [
        (1, 0, 8.3),
        (0, 1, 22.3),
        (1, 1, 30.6),
        (2, 1, 38.9),
        (2, 1.5, 50.0),
        (2, 2, 61.1),
        (3, 2, 69.4),
        (4, 2, 77.7),
        (3, 3, 91.7),
        (4, 3, 100.0),
    ],
)
def test_the_papers_ten_ratios(attention: float, mlp: float, percent: float) -> None:
    measured = share(named("llama2-chat-7b"), 1, Selection(attention=attention, mlp=mlp))
    assert 100 * measured == pytest.approx(percent, abs=0.1)


@pytest.mark.parametrize("level", ["category", "model"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.3, 0.5, 0.75, 1.0])
def test_a_share_of_ones_own(level: str, part: float) -> None:
    """On average over 200 rounds, of layers whose attention and MLP matrices are of different size."""
    model = small(num_hidden_layers=6)
    counted = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and ".layers." in name)
    learned = 0
    for round in range(1, 201):
        frozen = {f"{name}.weight" for name in select(model, round, 1, Selection(level=level, share=part))}
        learned += counted - sum(p.numel() for name, p in model.named_parameters() if name in frozen and p.dim() == 2)
    assert learned / counted / 200 == pytest.approx(part, abs=0.01)


def test_half_is_a_share() -> None:
    for level in ("category", "model"):
        for round in ROUNDS:
            of_half = select(small(), round, 1, Selection(level=level, share=0.5))
            assert of_half == select(small(), round, 1, Selection(level=level))


@pytest.mark.parametrize(("kinds", "others"), [(["q", "k"], "vo"), (["o", "v"], "qk")])
def test_attention_matrices_frozen_in_every_round(kinds: list[str], others: str) -> None:
    for round in ROUNDS:
        frozen = select(small(), round, 1, Selection(frozen=kinds))
        attention = Counter(name.rpartition(".")[2] for name in frozen if "self_attn" in name)
        assert attention == {f"{kind}_proj": 4 for kind in kinds}
        assert Counter(name.rpartition(".")[2] in ("gate_proj", "up_proj", "down_proj") for name in frozen)[True] == 6
    # Of those left as many learn as are to: one of v and o here, each in some round.
    drawn = [select(small(), round, 1, Selection(frozen=kinds, attention=1)) for round in ROUNDS]
    assert all(sum("self_attn" in name for name in frozen) == 3 * 4 for frozen in drawn)
    assert {name.rpartition(".")[2][0] for frozen in drawn for name in frozen if "self_attn" in name} == {*"qkvo"}
    alone = select(small(), 1, 1, Selection(frozen=kinds, mlp=3, norm=2))
    assert len(alone) == 8
    assert not [name for name in alone if name.rpartition(".")[2][0] in others]


def test_a_fused_matrix_is_not_frozen_in_part() -> None:
    model = without_weights("phi3")
    with pytest.raises(Unsuitable, match=r"qkv_proj is q, k, v in one matrix, which is frozen as a whole"):
        select(model, 1, 1, Selection(frozen=["q", "k"]))
    frozen = select(model, 1, 1, Selection(frozen=["v", "q", "k"], attention=1))
    assert all(("qkv_proj" in name) for name in frozen if "self_attn" in name)


@pytest.mark.parametrize("level", ["category", "model", "layer"])
def test_one_half_for_all_rounds(level: str) -> None:
    fixed = [select(small(), round, 1, Selection(level=level, redraw=False)) for round in ROUNDS]
    assert fixed == [select(small(), 1, 1, Selection(level=level))] * 8
    assert fixed[0] != select(small(), 1, 2, Selection(level=level, redraw=False)) or level == "layer"


def test_counts_in_every_layer() -> None:
    model = small(num_hidden_layers=6)
    for round in ROUNDS:
        frozen = set(select(model, round, 1, Selection()))
        counts = [
            tuple(len(frozen & names(block)) for block in (layer.attention, *layer.mlps, layer.norms))
            for layer in layers(model)
        ]
        assert {(attention, norms) for attention, _, norms in counts} == {(2, 1)}
        assert Counter(mlp for _, mlp, _ in counts) == {1: 3, 2: 3}
        assert not frozen & {"model.embed_tokens", "lm_head", "model.norm"}


def test_grouped_query_attention_freezes_one_of_each_size() -> None:
    model = small(num_key_value_heads=1)
    for round in ROUNDS:
        frozen = {name.rpartition(".")[2] for name in select(model, round, 1, Selection()) if ".0." in name}
        assert len(frozen & {"q_proj", "o_proj"}) == 1
        assert len(frozen & {"k_proj", "v_proj"}) == 1


def test_drawn_from_seed_and_round_alone() -> None:
    first = {(seed, round): select(small(), round, seed, Selection()) for seed in (1, 2) for round in ROUNDS}
    torch.manual_seed(99)
    assert first == {(seed, round): select(small(), round, seed, Selection()) for seed, round in first}
    assert len({tuple(frozen) for frozen in first.values()}) == len(first)


def test_every_module_learns_about_half_of_the_time() -> None:
    model = small()
    times = Counter(name for round in range(400) for name in select(model, round, 1, Selection()))
    drawn = [module.name for layer in layers(model) for module in (*layer.matrices, *layer.norms)]
    assert len(drawn) == 4 * 9
    assert all(150 < times[name] < 250 for name in drawn)


def test_odd_number_of_layers_is_half_on_average() -> None:
    model = small(num_hidden_layers=5)
    shares = [share(model, round, Selection()) for round in range(200)]
    assert len(set(shares)) == 2
    assert sum(shares) / len(shares) == pytest.approx(0.5, abs=0.01)


def test_model_level_freezes_half_of_all_matrices() -> None:
    model = small()
    drawn = {tuple(select(model, round, 1, Selection(level="model"))) for round in ROUNDS}
    assert len(drawn) == 8
    for frozen in drawn:
        assert sum("_proj" in name for name in frozen) == 14
        assert sum("norm" in name for name in frozen) == 4
    per_layer = Counter(name.split(".")[2] for name in next(iter(drawn)))
    assert len(set(per_layer.values())) > 1, "drawn over the model, not layer by layer"


def test_layer_level_takes_the_other_layers_in_the_next_round() -> None:
    model = small(num_hidden_layers=5)
    frozen = [{name.split(".")[2] for name in select(model, round, 1, Selection(level="layer"))} for round in (1, 2, 3)]
    assert frozen[0] == frozen[2]
    assert {frozenset(f) for f in frozen} == {frozenset("024"), frozenset("13")}
    assert all(sum(f".{i}." in n for n in select(model, 1, 1, Selection(level="layer"))) == 9 for i in frozen[0])


@pytest.mark.parametrize(
    ("tied", "outside"),
    [(False, {"model.embed_tokens", "model.norm", "lm_head"}), (True, {"model.embed_tokens", "model.norm"})],
)
def test_frozen_embeddings_count_a_tied_one_once(tied: bool, outside: set[str]) -> None:
    model = small(tie_word_embeddings=tied)
    frozen = select(model, 1, 1, Selection(embeddings="freeze"))
    assert {name for name in frozen if ".layers." not in name} == outside
    freeze(model, frozen)
    assert not model.get_output_embeddings().weight.requires_grad


def test_bias_and_qk_norm_go_with_their_matrix() -> None:
    model = build_on_meta(Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=4, attention_bias=True))
    seen = set()
    for round in ROUNDS:
        model.requires_grad_(True)
        frozen = select(model, round, 1, Selection())
        freeze(model, frozen)
        for path, layer in zip(decoder_layers(model), layers(model), strict=True):
            for name in names(layer.attention):
                assert model.get_parameter(f"{name}.bias").requires_grad == (name not in frozen)
            for letter in "qk":
                attention = f"{path}.self_attn"
                learns = model.get_parameter(f"{attention}.{letter}_norm.weight").requires_grad
                assert learns == (f"{attention}.{letter}_proj" not in frozen)
                seen.add(learns)
    assert seen == {True, False}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_half_of_every_architecture(architecture: str) -> None:
    """Exactly half of the layers' matrices, and half of the norms, each of them in about half of the rounds."""
    model = without_weights(architecture)
    assert {share(model, round, Selection()) for round in ROUNDS} == {0.5}
    norms = {name for layer in layers(model) for name in names(layer.norms)}
    assert len(norms) == {"gemma2": 16, "gemma3_text": 16, "cohere": 4}.get(architecture, 8)
    drawn = norms | {name for layer in layers(model) for name in names(layer.matrices)}
    times = Counter(name for round in range(200) for name in select(model, round, 1, Selection()))
    assert times.keys() == drawn
    assert all(70 < times[name] < 130 for name in drawn)
    assert sum(times[name] for name in norms) == 200 * len(norms) / 2
    for level in ("model", "layer"):
        shares = [share(model, round, Selection(level=level)) for round in range(200)]
        assert sum(shares) / 200 == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("architecture", "fused", "apart"),
    [
        ("phi3", "self_attn.qkv_proj", "self_attn.o_proj"),
        ("phi3", "mlp.gate_up_proj", "mlp.down_proj"),
        ("gpt_neox", "attention.query_key_value", "attention.dense"),
        ("mixtral", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
        ("qwen2_moe", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
    ],
)
def test_of_fused_matrices_half_of_the_layers_learn_and_the_rest_in_the_others(
    architecture: str, fused: str, apart: str
) -> None:
    model = without_weights(architecture)
    for round in ROUNDS:
        frozen = select(model, round, 1, Selection())
        per_layer = [{name for name in (fused, apart) if f"{path}.{name}" in frozen} for path in decoder_layers(model)]
        assert sorted(map(sorted, per_layer)) == sorted([[fused], [fused], [apart], [apart]])


@pytest.mark.parametrize("architecture", ["mixtral", "qwen2_moe"])
def test_a_router_learns_in_half_of_the_layers(architecture: str) -> None:
    model = without_weights(architecture)
    for round in ROUNDS:
        frozen = select(model, round, 1, Selection())
        assert sum(name.endswith("mlp.gate") for name in frozen) == 2


def test_an_mlp_of_two_matrices_learns_in_the_same_proportion() -> None:
    model = without_weights("opt")
    for mlp, learning in ((3, 2), (1.5, 1), (0, 0)):
        frozen = select(model, 1, 1, Selection(mlp=mlp))
        assert all(len({f"{path}.fc1", f"{path}.fc2"} - set(frozen)) == learning for path in decoder_layers(model))


def test_half_of_each_kind_of_layer_where_layers_differ() -> None:
    """The first two have one MLP, the other four are mixtures of experts."""
    model = without_weights("qwen2_moe", num_hidden_layers=6, mlp_only_layers=[0, 1])
    assert [len(layer.mlps) for layer in layers(model)] == [1, 1, 4, 4, 4, 4]
    assert {share(model, round, Selection()) for round in ROUNDS} == {0.5}


@pytest.mark.parametrize(
    ("architecture", "sizes", "unknown"),
    [
        ("gpt2", {"n_embd": 8, "n_layer": 2, "n_head": 2}, r"GPT2LMHeadModel apart \(attn.c_attn is none it knows\)"),
        ("deepseek_v3", {"first_k_dense_replace": 9}, r"DeepseekV3ForCausalLM apart \(self_attn.q_a_proj "),
        ("mamba", {}, r"MambaForCausalLM apart \(mixer.A_log"),
    ],
)
def test_a_model_it_cannot_tell_apart_is_refused(architecture: str, sizes: dict[str, Any], unknown: str) -> None:
    with pytest.raises(Unsuitable, match=f"^HFT cannot tell the matrices in a layer of {unknown}.*: set hft=false$"):
        select(without_weights(architecture, **sizes), 1, 1, Selection())


def test_what_has_no_layers_is_refused() -> None:
    with pytest.raises(Unsuitable, match="Linear has no transformer layers"):
        select(nn.Linear(2, 2), 1, 1, Selection())


@pytest.mark.parametrize(
    "wrong",
    [{"level": "tensor"}, {"embeddings": "thaw"}, {"attention": 5.0}, {"mlp": -1.0}, {"level": "layer", "mlp": 1}],
)
def test_a_wrong_selection_names_its_key(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="selection"):
        Selection(**wrong)


@pytest.mark.parametrize(
    ("selection", "suffix"),
    [
        (Selection(), ""),
        (Selection(level="layer"), "-layer"),
        (Selection(attention=2, mlp=1), "-2x1"),
        (Selection(embeddings="freeze"), "-frozen_embeddings"),
    ],
)
def test_the_methods_name(selection: Selection, suffix: str) -> None:
    assert selection.suffix == suffix


def test_callback_in_a_trainer(small_model: Path, tmp_path: Path) -> None:
    """In transformers' own Trainer the frozen half stays bit-identical, the rest moves, and all is free afterwards."""
    model = LlamaForCausalLM.from_pretrained(small_model)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    rows = [{"input_ids": [1, 5, 6, 7], "labels": [1, 5, 6, 7]}] * 4
    arguments = TrainingArguments(str(tmp_path), max_steps=2, report_to="none", disable_tqdm=True, save_strategy="no")
    callback = HalfFineTuningCallback(round=3, seed=5)
    Trainer(model, arguments, train_dataset=rows, callbacks=[callback]).train()
    assert callback.frozen == select(model, 3, 5, Selection())
    for name, parameter in model.named_parameters():
        frozen = name.rpartition(".")[0] in callback.frozen
        assert torch.equal(parameter, before[name]) == frozen, name
        assert parameter.requires_grad


def test_the_wrapper_changes_what_learns_and_the_name_and_nothing_else() -> None:
    model, round = without_weights("llama"), Round(3, [FakeTask("a", 0), FakeTask("b", 1)], [])
    gem = GEM(memory_size=5)
    wrapped = HalfFineTuning(gem, Selection())
    frozen = select(model, 2, 3, Selection())
    learning = wrapped.trainable(round, 0, model)
    assert learning == [name for name, _ in model.named_parameters() if name.rpartition(".")[0] not in frozen]
    assert wrapped.trainable(round, 1, model) is None
    assert (wrapped.name, gem.name) == ("gem+hft", "gem")
    assert (wrapped.uses, wrapped.memory_size, wrapped.phases(round)) == (gem.uses, 5, gem.phases(round))
