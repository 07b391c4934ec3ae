"""Small random models of many architectures, made from their configuration classes."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from trace_cl.training.model import build_on_meta

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.5,  # logits so large that soft caps are felt
}
OWN: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 4},
    "mistral": {"head_dim": 4},
    "gemma2": {"head_dim": 4, "final_logit_softcapping": 2.0},
    "gemma3_text": {"head_dim": 4},
    "phi3": {},
    "granite": {"logits_scaling": 8.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    "cohere": {"logit_scale": 0.25},
    "gpt_neox": {},
    "olmo2": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 12,
    },
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": 16, "init_std": 0.5},
}
ARCHITECTURES = list(OWN)


def without_weights(architecture: str, **sizes: Any) -> PreTrainedModel:
    """On the meta device, to count."""
    return build_on_meta(AutoConfig.for_model(architecture, **{**SIZES, **OWN.get(architecture, {}), **sizes}))


def with_weights(architecture: str, dtype: torch.dtype = torch.float32, **sizes: Any) -> PreTrainedModel:
    """Random ones, always the same."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **{**SIZES, **OWN.get(architecture, {}), **sizes})
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.eval()
    return model
