"""HFT against the paper's figures, counted on models without weights."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from support import compose
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

from trace_cl.strategies.hft import HalfFineTuningCallback, freeze, layers, select
from trace_cl.strategies.selection import Selection
from trace_cl.training.model import build_on_meta, trainable_share

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


def share(model: nn.Module, round: int, selection: Selection, seed: int = 1) -> float:
    model.requires_grad_(True)
    freeze(model, select(model, round, seed, selection))
    return trainable_share(model)


@pytest.mark.parametrize("name", ["llama2-chat-7b", "llama2-chat-13b", "llama3-8b", "qwen2.5-7b"])
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


def test_counts_in_every_layer() -> None:
    model = small(num_hidden_layers=6)
    for round in ROUNDS:
        frozen = set(select(model, round, 1, Selection()))
        counts = [
            tuple(len(frozen & set(names)) for names in (layer.attention, layer.mlp, layer.norms))
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
    drawn = [name for layer in layers(model) for name in (*layer.attention, *layer.mlp, *layer.norms)]
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
        for layer in layers(model):
            for name in layer.attention:
                assert model.get_parameter(f"{name}.bias").requires_grad == (name not in frozen)
            for letter in "qk":
                attention = f"{layer.path}.self_attn"
                learns = model.get_parameter(f"{attention}.{letter}_norm.weight").requires_grad
                assert learns == (f"{attention}.{letter}_proj" not in frozen)
                seen.add(learns)
    assert seen == {True, False}


def test_a_model_it_cannot_tell_apart_is_refused() -> None:
    config = AutoConfig.for_model("gpt2", n_embd=8, n_layer=2, n_head=2, vocab_size=16)
    with pytest.raises(ValueError, match="GPT2LMHeadModel has none"):
        select(build_on_meta(config), 1, 1, Selection())


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
