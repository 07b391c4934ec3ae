"""What is told from a loaded model."""

from typing import Any

import pytest
import torch
from architectures import without_weights
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedModel

from trace_cl.strategies.base import Round
from trace_cl.strategies.lora_seqft import LoraSeqFT
from trace_cl.training.model import cut_matters

NONE = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def gpt2(**settings: Any) -> PreTrainedModel:
    config = GPT2Config(vocab_size=32, n_embd=8, n_layer=1, n_head=2, initializer_range=0.5, **settings)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model


@pytest.mark.parametrize("kind", ["resid_pdrop", "embd_pdrop", "attn_pdrop"])
def test_a_models_own_dropout_follows_the_cut(kind: str) -> None:
    """Held against the model: two rows are worked on alike together and one after the other, but where it is said."""
    for p in (0.0, 0.5):
        model = gpt2(**{**NONE, kind: p}).train()
        ids = torch.arange(12).view(2, 6)
        torch.manual_seed(0)
        together = model(input_ids=ids).logits
        torch.manual_seed(0)
        second, first = (model(input_ids=row[None]).logits for row in ids.flip(0))
        assert cut_matters(model) == (not torch.allclose(together, torch.cat([first, second]), atol=1e-4)) == (p > 0)


def test_what_a_configuration_alone_tells() -> None:
    """Dropout as a function, dropped layers, a router's noise; not the dropout of a classifier that is not there."""
    assert not cut_matters(without_weights("llama"))
    assert cut_matters(without_weights("llama", attention_dropout=0.1))
    assert not cut_matters(without_weights("opt", dropout=0.0))
    assert cut_matters(without_weights("opt", dropout=0.1))
    assert cut_matters(without_weights("opt", dropout=0.0, layerdrop=0.1))
    assert not cut_matters(without_weights("mixtral"))
    assert cut_matters(without_weights("mixtral", router_jitter_noise=0.01))
    assert not cut_matters(without_weights("gpt_neox", classifier_dropout=0.1))


def test_an_adapters_dropout_does_not() -> None:
    build = LoraSeqFT(dropout=0.3, target_modules=None).build
    rounds = [Round(1, [], [])]
    assert not cut_matters(build(lambda _: without_weights("llama"), None, rounds))
    assert not cut_matters(build(lambda _: gpt2(**NONE), None, rounds))
    assert cut_matters(build(lambda _: gpt2(), None, rounds))
