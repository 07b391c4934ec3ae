"""LoraSeqFT: one low-rank adapter (LoRA, arXiv 2106.09685) is trained on through all tasks; the model stays frozen."""

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL_TARGETS
from torch import Tensor, nn
from torch.random import fork_rng
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .base import LoadModel, Round, Unsuitable
from .dropout import ExampleDropout
from .layers import decoder_layers
from .seqft import SeqFT
from .settings import BELOW_ONE, COUNT
from .streams import stream
from .tensors import read_tensors


@dataclass
class LoraSeqFT(SeqFT):
    """Sequential fine-tuning of an adapter (HFT paper, A.3: rank 8, alpha 32, dropout 0.1 on the q and v matrices).

    `r` is the adapter's rank, `alpha` / `r` the factor it is added with, `dropout` that of its input. `target_modules`
    are the matrices that have one, by the ends of their names; null: those that peft adapts in this architecture. The
    checkpoint is the adapter alone, in peft's own layout. Scores are taken without merging it into the model.
    """

    r: int = 8
    alpha: int = 32
    dropout: float = 0.1
    target_modules: list[str] | None = field(default_factory=lambda: ["q_proj", "v_proj"])

    name = "lora_seqft"
    changes_architecture = True

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        COUNT.check("strategy.r", self.r)
        COUNT.check("strategy.alpha", self.alpha)
        BELOW_ONE.check("strategy.dropout", self.dropout)

    def build(self, load: LoadModel, checkpoint: Path | None, rounds: Sequence[Round]) -> PreTrainedModel:
        model = load(None)
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=targets(model, self.target_modules),
        )
        adapted = put_on(model, config, checkpoint, rounds[0].seed if rounds else 0)
        # It answers to everything that the runner asks of a model.
        return cast(PreTrainedModel, adapted)

    def save_model(self, model: PreTrainedModel, folder: Path, weights: dict[str, Tensor] | None) -> None:
        # The embedding is not the adapter's, and peft need not ask the hub whether its vocabulary has changed.
        model.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)

    def trainable(self, round: Round, step: int, model: nn.Module) -> Collection[str] | None:
        """The adapter, in every round."""
        return [name for name, _ in model.named_parameters() if is_adapter(name)] if step == 0 else None


def is_adapter(name: str) -> bool:
    """Whether a parameter's name is that of an adapter's."""
    return ".lora_" in name


def put_on(model: PreTrainedModel, config: PeftConfig, checkpoint: Path | None, seed: int) -> PeftModel:
    """The model under an adapter: one drawn from the seed, or just what the checkpoint holds. Its dropout is drawn
    example by example. Raises Unsuitable for a checkpoint of another adapter."""
    # By default peft holds a bf16 model's adapter in fp32 where it was just made or read, and so nowhere else.
    held: dict[str, Any] = {"autocast_adapter_dtype": False}
    with warnings.catch_warnings(), fork_rng(devices=[]):
        warnings.simplefilter("ignore", FutureWarning)  # peft asks the model for something by its old name
        torch.manual_seed(stream(seed, "lora"))
        adapted: PeftModel = get_peft_model(model, config, **held)
    for number, layer in enumerate(module for module in adapted.modules() if isinstance(module, LoraLayer)):
        for name, dropout in layer.lora_dropout.items():
            if isinstance(dropout, nn.Dropout):
                layer.lora_dropout[name] = ExampleDropout(dropout.p, number)
    if checkpoint is not None:
        # peft goes on without what is missing, and passes over what it has no place for.
        own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        shapes = {name: part.shape for name, part in own.items()}
        set_peft_model_state_dict(adapted, read_tensors(checkpoint / "adapter_model.safetensors", shapes))
    return adapted.eval()


def targets(model: PreTrainedModel, wanted: Sequence[str] | None) -> list[str]:
    """The matrices to adapt. Raises Unsuitable where the model lacks one: peft would say nothing as long as it has
    another."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Embedding | Conv1D)]
    chosen = list(USUAL_TARGETS.get(model.config.model_type, []) if wanted is None else wanted)
    missing = [target for target in chosen if not any(f".{name}".endswith(f".{target}") for name in linear)]
    if chosen and not missing:
        return chosen
    kind, inside = type(model).__name__, tuple(decoder_layers(model))
    candidates = dict.fromkeys(name.rpartition(".")[2] for name in linear if name.startswith(inside))
    reason = f"{kind} has no {missing[0]}" if missing else f"peft has no choice of its own for {kind}"
    raise Unsuitable(f"strategy.target_modules: {reason}; choose from {', '.join(candidates)}")
