"""Models of a given architecture with random weights, so that none must be downloaded; their words are the tiny
model's, which TRACE's prompts can be told in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from trace_cl.tiny import CHECKPOINT
from trace_cl.training.folder import of_sizes
from trace_cl.training.model import load_tokenizer


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
        # It says no words that the tokenizer lacks: answers are texts, of which some are settled early, as always.
        model.get_output_embeddings().weight[len(tokenizer) :] = 0
    model.eval()
    return model


def save_random_model(
    folder: Path, architecture: Mapping[str, Any], dtype: torch.dtype, device: torch.device | str = "cpu"
) -> None:
    """The same with its tokenizer, in Hugging Face layout, for `model.path`."""
    random_model(architecture, dtype, device).save_pretrained(folder)
    load_tokenizer(str(CHECKPOINT)).save_pretrained(folder)
