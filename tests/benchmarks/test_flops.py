"""How many operations a step needs, against PyTorch's own counter."""

import pytest
import torch
from flops import by_data_sheet, needed
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from trace_cl.data.batches import answer_tokens, collate
from trace_cl.strategies.base import Example
from trace_cl.strategies.hft import freeze
from trace_cl.training.loss import LanguageModel

EXAMPLES = [Example(list(range(2, 22)), [5, 6, 7]), Example(list(range(2, 22)), [8, 9, 5])]
FROZEN = ["model.layers.0.mlp.up_proj", "model.layers.1.self_attn.o_proj", "model.layers.1.mlp.down_proj"]


@pytest.mark.parametrize("frozen", [[], FROZEN], ids=["all learns", "some is frozen"])
def test_it_is_what_pytorch_counts_but_for_the_future(frozen: list[str]) -> None:
    """The counter counts the whole square of attention, of which causal attention needs half."""
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")
    freeze(model, frozen)
    with FlopCounterMode(display=False) as counter:
        LanguageModel(model)(collate(EXAMPLES, answer_tokens(EXAMPLES))).backward()
    square = 2 * 3 * 2 * 2 * 16 * 22**2  # two examples; forward and twice backward; two layers; two products of 2 · 16
    by_operator = counter.get_flop_counts()["Global"]
    attention = by_operator[torch.ops.aten.bmm]
    assert attention == pytest.approx(square * 2, rel=0.01)  # and the rotation's angles, which are a product too
    products = sum(by_operator.values()) - attention
    assert needed(model, EXAMPLES) == products + square


def test_a_device_is_known_by_its_name() -> None:
    assert by_data_sheet("NVIDIA H200") == by_data_sheet("NVIDIA H100 80GB HBM3") == 989e12
    assert by_data_sheet("CPU") is None
