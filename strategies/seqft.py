"""SeqFT: sequential fine-tuning. Every parameter learns, and nothing is done against forgetting."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from .base import Learner, LoadModel, Phase, Round


@dataclass
class SeqFT:
    """Train on each task's own examples for its own number of epochs (TRACE, arXiv 2310.06762, section 4)."""

    name = "seqft"
    reads_gradients = "nothing"
    changes_architecture = False
    uses_instructions = False

    def prepare(self, load: LoadModel, checkpoint: Path | None) -> PreTrainedModel:
        return load(checkpoint)

    def begin_round(self, round: Round, model: PreTrainedModel) -> None:
        model.requires_grad_(True)

    def phases(self, round: Round) -> list[Phase]:
        return [Phase(round.task.name, round.task.train, round.task.epochs)]

    def extra_bytes(self, round: Round, trainable: int) -> int:
        return 0

    def adjust_gradients(self, round: Round, learner: Learner) -> dict[str, Any]:
        return {}

    def end_round(self, round: Round) -> dict[str, Any]:
        return {}

    def save(self, folder: Path) -> None:
        pass

    def restore(self, folder: Path) -> None:
        pass
