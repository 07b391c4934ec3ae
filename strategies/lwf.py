"""LwF: learning without forgetting (Li and Hoiem, ECCV 2016, arXiv 1606.09282), for the answers of a language model.

The model as the last round left it is the teacher. Besides learning the new answers, the student is to go on predicting
at each answer token what the teacher predicts there: L + λ T² · KL(softmax(z_old / T) ‖ softmax(z / T)).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from transformers import PreTrainedModel

from .base import Batch, Bytes, Learner, LoadModel, Model, Round
from .seqft import SeqFT
from .settings import NOT_NEGATIVE, POSITIVE


def distillation(logits: Tensor, old: Tensor, temperature: float) -> Tensor:
    """T² · KL(softmax(z_old / T) ‖ softmax(z / T)) at each of N positions (logits N × vocabulary; the answer is N).

    T² keeps the gradient's size from falling with the temperature (Hinton et al., arXiv 1503.02531, section 2): it is
    T · (p − p_old).
    """
    precise = torch.promote_types(logits.dtype, torch.float32)
    new, teacher = (log_softmax(z.to(precise) / temperature, dim=-1) for z in (logits, old))
    return temperature**2 * kl_div(new, teacher, reduction="none", log_target=True).sum(dim=-1)


@dataclass
class LwF(SeqFT):
    """Sequential fine-tuning that keeps to the predictions of the model before, on the new task's own texts.

    `strength` is λ, `temperature` T.
    """

    strength: float = 1.0  # the paper's λ₀ (section 3)
    temperature: float = 2.0  # the paper's T (section 3)

    name = "lwf"
    uses = frozenset({"snapshot"})
    terms = ("distillation",)

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        NOT_NEGATIVE.check("strategy.strength", self.strength)
        POSITIVE.check("strategy.temperature", self.temperature)

    def build(self, load: LoadModel, checkpoint: Path | None, rounds: Sequence[Round]) -> PreTrainedModel:
        model = load(checkpoint)
        self.teachers_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
        return model

    def begin_round(self, round: Round, learner: Learner) -> None:
        self.teacher = learner.snapshot() if round.past and self.strength else None

    def loss(self, model: Model, batch: Batch) -> Tensor:
        if self.teacher is None:
            return model.mean(batch)
        logits = model.logits(batch)
        with torch.no_grad():
            old = self.teacher.logits(batch)
        term = self.strength * batch.mean(distillation(logits, old, self.temperature))
        batch.note("distillation", term)
        return batch.cross_entropy(logits) + term

    def end_round(self, round: Round, learner: Learner) -> dict[str, object]:
        self.teacher = None
        return {}

    def extra_bytes(self, round: Round, trainable: int) -> Bytes:
        return Bytes(device=self.teachers_bytes if round.past else 0)
