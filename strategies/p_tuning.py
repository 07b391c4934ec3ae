"""P-tuning v2 (Liu et al., ACL 2022, arXiv 2110.07602): a trainable prefix in every layer, the model itself frozen.

Each layer's attention sees `prefix_tokens` more keys and values before those of the text, and they alone learn: one
prefix, trained on through all tasks. peft calls it prefix tuning (Li and Liang, arXiv 2101.00190).
"""

import copy
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model, initialize_kv_prefix_from_past_key_values
from peft.tuners.prefix_tuning import PrefixEncoder
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from .base import LoadModel, Round, Unsuitable
from .prompts import size_of
from .seqft import SeqFT
from .settings import COUNT
from .streams import stream
from .tensors import read_tensors

FILE, SAVED = "adapter_model.safetensors", "prompt_embeddings"
"""Where peft keeps a prefix, and by what name."""


@dataclass
class PTuning(SeqFT):
    """Sequential fine-tuning of `prefix_tokens` keys and values a layer, without reparameterisation (the paper finds it
    a gain on some tasks and a loss on others: section 3.3). The checkpoint is the prefix alone, in peft's own layout.
    """

    prefix_tokens: int = 20  # the paper, section 3.3: fewer than 20 for simple tasks, around 100 for sequence labelling

    name = "p_tuning"
    uses = frozenset({"past_keys"})
    changes_architecture = True

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        COUNT.check("strategy.prefix_tokens", self.prefix_tokens)

    def build(self, load: LoadModel, checkpoint: Path | None, rounds: Sequence[Round]) -> PreTrainedModel:
        model = load(None)
        refuse_shared_keys(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks the model for something by its old name
            config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=self.prefix_tokens)
            tuned = get_peft_model(model, config)
        encoder = cast(PrefixEncoder, tuned.prompt_encoder["default"])
        # In fp32, as peft makes it, it would be held nowhere else than here: a round leaves it in the model's dtype.
        encoder.to(model.dtype)
        if checkpoint is not None:
            shape = encoder.embedding.weight.shape
            encoder.load_prompt_embeddings(read_tensors(checkpoint / FILE, {SAVED: shape})[SAVED])
        elif model.device.type != "meta":
            with torch.no_grad():
                read = model(input_ids=self.words(model, rounds[0].seed).to(model.device), use_cache=True)
            initialize_kv_prefix_from_past_key_values(tuned, past_key_values=read.past_key_values)
        # It answers to everything that the runner asks of a model.
        return cast(PreTrainedModel, tuned.eval())

    def words(self, model: PreTrainedModel, seed: int) -> Tensor:
        """The words that the prefix begins as, had the model read them (1 × `prefix_tokens` ids, drawn at random): of
        one of random numbers models learn worse (Li and Liang, section 7.4)."""
        draw = torch.Generator().manual_seed(stream(seed, "p_tuning"))
        return torch.randint(size_of(model.get_input_embeddings()), (1, self.prefix_tokens), generator=draw)

    def save_model(self, model: PreTrainedModel, folder: Path, weights: dict[str, Tensor] | None) -> None:
        """What peft writes itself, which would look for a prefix that is spread over ranks in its own parameter."""
        config = copy.copy(cast(PeftModel, model).peft_config["default"])
        config.inference_mode = True
        config.save_pretrained(str(folder))
        everything = model.state_dict() if weights is None else weights
        [prefix] = [value for name, value in everything.items() if is_prefix(name)]
        save_file({SAVED: prefix.contiguous().cpu()}, folder / FILE)

    def trainable(self, round: Round, step: int, model: nn.Module) -> Collection[str] | None:
        """The prefix, in every round."""
        return [name for name, _ in model.named_parameters() if is_prefix(name)] if step == 0 else None

    def positions(self, round: Round) -> int:
        return self.prefix_tokens


def is_prefix(name: str) -> bool:
    """Whether a parameter's name is that of the prefix."""
    return "prompt_encoder." in name


def refuse_shared_keys(model: PreTrainedModel) -> None:
    """Raise Unsuitable where peft would make keys for every head, and the model has fewer of them under another name
    (Falcon, GPT-BigCode)."""
    config = model.config.get_text_config()
    if getattr(config, "multi_query", False) or hasattr(config, "num_kv_heads"):
        raise Unsuitable(f"peft makes no prefix for the shared keys of {type(model).__name__}; take another strategy")
