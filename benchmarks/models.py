"""The models that the benchmarks measure with: an architecture and random weights, so that none must be downloaded."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from trace_cl.choices import compose
from trace_cl.config import as_dict

BENCH: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "tie_word_embeddings": True,
}
"""`bench`: 41.7 M parameters in Llama-2's proportions and with as many words, a step of which takes a CPU seconds."""


def build(name: str, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """`bench`, or the architecture of a model in `conf/model`."""
    architecture = BENCH if name == "bench" else as_dict(compose([f"model={name}"]).model.architecture)
    torch.manual_seed(0)
    with torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(**architecture), dtype=dtype)
    return model
