"""LoraSeqFT: one low-rank adapter (LoRA, arXiv 2106.09685) is trained on through all tasks; the model stays frozen."""

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from .base import LoadModel, Round
from .seqft import SeqFT


@dataclass
class LoraSeqFT(SeqFT):
    """Sequential fine-tuning of an adapter (HFT paper, A.3: rank 8, alpha 32, dropout 0.1 on the q and v matrices).

    `r` is the adapter's rank, `alpha` / `r` the factor it is added with, `dropout` that of its input; `target_modules`
    names the matrices that have one. The checkpoint is the adapter alone, in peft's own layout. Scores are taken
    without merging it into the model.
    """

    r: int = 8
    alpha: int = 32
    dropout: float = 0.1
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])

    name = "lora_seqft"
    changes_architecture = True

    def build(self, load: LoadModel, checkpoint: Path | None, rounds: Sequence[Round]) -> PreTrainedModel:
        model = load(None)
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=list(self.target_modules),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks the model for something by its old name
            if checkpoint is None:
                adapted: PeftModel = get_peft_model(model, config)
            else:
                adapted = PeftModel.from_pretrained(model, checkpoint, is_trainable=True)
        # It answers to everything that the runner asks of a model.
        return cast(PreTrainedModel, adapted.eval())

    def trainable(self, round: Round, step: int, model: nn.Module) -> Collection[str] | None:
        """The adapter, in every round."""
        return [name for name, _ in model.named_parameters() if ".lora_" in name] if step == 0 else None
