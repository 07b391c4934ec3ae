"""What HFT freezes, of models of any number and shape of layers, counted without HFT's own idea of a layer."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, PreTrainedModel

from trace_cl.strategies.base import shape_of
from trace_cl.strategies.hft import parameters_of, select
from trace_cl.strategies.selection import Selection
from trace_cl.training.model import build_on_meta

tries = settings(max_examples=30, deadline=None, derandomize=True, database=None)
rounds, seeds = st.integers(0, 1000), st.integers(0, 2**63 - 1)


@st.composite
def shapes(draw: st.DrawFn) -> PreTrainedModel:
    """A Llama of one to nine layers: any MLP, any number of heads for each query head, tied or not."""
    groups, heads = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return build_on_meta(
        LlamaConfig(
            vocab_size=32,
            hidden_size=groups * heads * draw(st.integers(1, 8)),
            intermediate_size=draw(st.integers(1, 50)),
            num_hidden_layers=draw(st.integers(1, 9)),
            num_attention_heads=groups * heads,
            num_key_value_heads=groups,
            head_dim=2 * draw(st.integers(1, 4)),
            attention_bias=draw(st.booleans()),
            tie_word_embeddings=draw(st.booleans()),
        )
    )


def sizes(model: PreTrainedModel, kind: str) -> dict[str, int]:
    """How many numbers each matrix of this kind in the layers has, by its module's name."""
    named = {name.removesuffix(".weight"): shape_of(p).numel() for name, p in model.named_parameters()}
    return {name: size for name, size in named.items() if re.search(rf"\.layers\.\d+\..*({kind})$", name)}


MATRIX, NORM = "(q|k|v|o|gate|up|down)_proj", "layernorm"


@tries
@given(shapes(), rounds, seeds)
def test_half_of_the_layers_matrices_is_frozen(model: PreTrainedModel, round: int, seed: int) -> None:
    """Of an even number of layers exactly; of an odd number as near as a whole MLP matrix lets it be."""
    frozen = set(select(model, round, seed, Selection()))
    mlp, attention, norms = (sizes(model, kind) for kind in ("(gate|up|down)_proj", "(q|k|v|o)_proj", NORM))
    assert frozen <= mlp.keys() | attention.keys() | norms.keys()
    assert 2 * len(frozen & norms.keys()) == len(norms)
    assert 2 * sum(attention[name] for name in frozen & attention.keys()) == sum(attention.values())
    odd = (len(mlp) // 3) % 2 * max(mlp.values())
    assert abs(2 * sum(mlp[name] for name in frozen & mlp.keys()) - sum(mlp.values())) == odd


@tries
@given(shapes(), rounds, seeds, st.sampled_from(["category", "model", "layer"]))
def test_the_draw_is_that_of_its_seed_and_round(model: PreTrainedModel, round: int, seed: int, level: str) -> None:
    """Whatever else is drawn from anywhere; and each name is one module of the model, biases and all."""
    selection = Selection(level=level)
    frozen = select(model, round, seed, selection)
    torch.manual_seed(round)
    assert select(model, round, seed, selection) == frozen
    assert len(set(frozen)) == len(frozen)
    stopped = parameters_of(model, frozen)
    assert stopped == {name for name, _ in model.named_parameters() if name.rpartition(".")[0] in frozen}


@tries
@given(shapes(), rounds, seeds)
def test_at_layer_level_two_rounds_take_turns(model: PreTrainedModel, round: int, seed: int) -> None:
    """Together they are all layers, none is in both, and the third round is the first one's again."""
    first, second, third = (set(select(model, round + n, seed, Selection(level="layer"))) for n in range(3))
    assert first | second == sizes(model, f"{MATRIX}|{NORM}").keys()
    assert not first & second
    assert third == first
    layers = {name.split(".")[2] for name in first}
    assert sizes(model, f"{MATRIX}|{NORM}").keys() & first == {
        name for name in sizes(model, f"{MATRIX}|{NORM}") if name.split(".")[2] in layers
    }


@tries
@given(shapes(), rounds, seeds)
def test_at_model_level_half_of_all_matrices_is_frozen(model: PreTrainedModel, round: int, seed: int) -> None:
    """By their number: rounded up or down where it is odd."""
    frozen = set(select(model, round, seed, Selection(level="model")))
    for kind in (MATRIX, NORM):
        every = sizes(model, kind)
        assert len(frozen & every.keys()) == pytest.approx(len(every) / 2, abs=0.5)
    assert frozen <= sizes(model, f"{MATRIX}|{NORM}").keys()
