"""L2-SP: a penalty on moving away from the starting point (Li et al., ICML 2018, arXiv 1802.01483, equation 2).

One spring for every weight, all of them alike: λ/2 · ‖θ − θ⁰‖². Of its own method the HFT paper says that it is such a
term (arXiv 2404.18466): half of the weights are held where they are, the others not at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from .base import Bytes, Learner, LoadModel, Round
from .seqft import SeqFT
from .settings import NOT_NEGATIVE
from .tensors import parts_of


@dataclass
class L2SP(SeqFT):
    """Sequential fine-tuning with a quadratic penalty on moving away from where learning began.

    `strength` is λ. `anchor` says where the springs are fastened: at the pretrained weights (`base`, as in the paper),
    or at those that the round began with (`round`).
    """

    strength: float = 0.1  # ours: about a third of the loss on the embedded benchmark; the paper sets it by task
    anchor: str = "base"  # the paper's

    name = "l2sp"
    uses = frozenset({"gradients", "weights"})
    terms = ("penalty",)

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        NOT_NEGATIVE.check("strategy.strength", self.strength)
        if self.anchor not in ("base", "round"):
            raise ValueError(f"strategy.anchor={self.anchor} is not one of base, round")

    def build(self, load: LoadModel, checkpoint: Path | None, rounds: Sequence[Round]) -> PreTrainedModel:
        self.load = load
        model = load(checkpoint)
        self.bytes_a_weight = model.dtype.itemsize if self.anchor == "base" else torch.float32.itemsize
        return model

    def begin_round(self, round: Round, learner: Learner) -> None:
        if self.anchor == "base":
            self.start = parts_of(self.load(None), learner)
        else:
            self.start = {name: part.clone() for name, part in learner.weights().items()}

    def adjust_gradients(self, round: Round, learner: Learner) -> dict[str, Any]:
        """Add the penalty's gradient, λ(θ − θ⁰), to the loss's."""
        gradients, weights = learner.take_gradients(), learner.weights()
        penalty = torch.zeros((), dtype=torch.float64)
        for name, gradient in gradients.items():
            moved = weights[name] - self.start[name]
            gradient.add_(moved, alpha=self.strength)
            penalty += self.strength / 2 * moved.square().sum().double().cpu()
        learner.put_gradients(gradients)
        return {"penalty": learner.sum_over_shards(penalty).item()}

    def end_round(self, round: Round, learner: Learner) -> dict[str, Any]:
        self.start = {}
        return {}

    def extra_bytes(self, round: Round, trainable: int) -> Bytes:
        return Bytes(device=self.bytes_a_weight * trainable)
