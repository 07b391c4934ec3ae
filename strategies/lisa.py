"""LISA: layerwise importance sampling (Pan et al., NeurIPS 2024, arXiv 2403.17919, Algorithm 1).

What lies outside the transformer layers (embedding, head, final norm) always learns; of the layers a few, drawn anew
every so many steps. The authors found these two to be what LoRA changes most, and the layers between to share the rest
evenly: hence all of them are drawn alike.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from .base import Learner, LoadModel, Round, Unsuitable
from .layers import decoder_layers
from .seqft import SeqFT
from .settings import COUNT


@dataclass
class LISA(SeqFT):
    """Sequential fine-tuning in which few layers learn at a time: `layers` of them (γ), drawn anew every `period`
    steps (K).

    A layer that was not drawn again loses its optimizer state, which is what saves the memory; one that comes back
    begins without.
    """

    layers: int = 2  # the paper's E+H+2L (its table of memory)
    period: int = 20  # the authors' script (LMFlow, run_finetune_with_lisa.sh)

    name = "lisa"
    uses = frozenset({"changing_parameters"})

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        COUNT.check("strategy.layers", self.layers)
        COUNT.check("strategy.period", self.period)

    def build(self, load: LoadModel, checkpoint: Path | None, rounds: Sequence[Round]) -> PreTrainedModel:
        """Raises Unsuitable for a model with fewer layers than are to be drawn."""
        model = load(checkpoint)
        self.depth = len(decoder_layers(model))
        if self.layers > self.depth:
            raise Unsuitable(
                f"strategy.layers={self.layers} are more layers than {type(model).__name__} has: "
                f"set it to {self.depth} or fewer"
            )
        return model

    def drawn(self, round: Round, step: int, depth: int) -> list[int]:
        """The layers, of so many, that learn at this step."""
        draw = Random(f"lisa/{round.seed}/{round.number}/{step // self.period}")
        return sorted(draw.sample(range(depth), self.layers))

    def trainable(self, round: Round, step: int, model: nn.Module) -> Collection[str] | None:
        if step % self.period:
            return None
        paths = list(decoder_layers(model))
        drawn = self.drawn(round, step, len(paths))
        resting = tuple(f"{path}." for number, path in enumerate(paths) if number not in drawn)
        return [name for name, _ in model.named_parameters() if not name.startswith(resting)]

    def end_round(self, round: Round, learner: Learner) -> dict[str, Any]:
        steps = sum(phase.steps(round.global_batch) for phase in self.phases(round))
        return {"layers": [self.drawn(round, step, self.depth) for step in range(0, steps, self.period)]}
