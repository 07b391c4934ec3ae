"""The models that the benchmarks measure with: an architecture and random weights, so that none must be downloaded.

Their words are the tiny model's, in which TRACE's prompts can be told; what more there are of them nobody says.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from trace_cl.choices import compose
from trace_cl.config import as_dict
from trace_cl.tiny import CHECKPOINT
from trace_cl.training.folder import of_sizes
from trace_cl.training.model import load_tokenizer

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
    return random_model(architecture, dtype, device)


def random_model(
    architecture: Mapping[str, Any], dtype: torch.dtype, device: torch.device | str = "cpu"
) -> PreTrainedModel:
    """One made where it is to stay, the same each time, in evaluation mode."""
    tokenizer = load_tokenizer(str(CHECKPOINT))
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    with torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(of_sizes({**architecture, **ends}), dtype=dtype)
    with torch.no_grad():
        # Never the likeliest: answers are texts, of which some are settled early, as always.
        model.get_output_embeddings().weight[len(tokenizer) :] = 0
    model.eval()
    return model


def save_random_model(
    folder: Path, architecture: Mapping[str, Any], dtype: torch.dtype, device: torch.device | str = "cpu"
) -> None:
    """The same with its tokenizer, in Hugging Face layout, for `model.path`."""
    random_model(architecture, dtype, device).save_pretrained(folder)
    load_tokenizer(str(CHECKPOINT)).save_pretrained(folder)
