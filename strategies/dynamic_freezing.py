"""Dynamic freezing: the variant of HFT that freezes more and more (arXiv 2404.18466, Table 22).

All parameters learn at first; after each tenth of a round's steps another tenth of the layers' matrices is frozen.
"""

from collections.abc import Collection
from dataclasses import dataclass
from random import Random

from torch import nn

from .base import Round
from .hft import parameters_of
from .layers import decoder_layers, matrices, module_of
from .seqft import SeqFT
from .settings import COUNT


@dataclass
class DynamicFreezing(SeqFT):
    """Sequential fine-tuning of ever fewer matrices: a round's steps are cut into `stages`, and with each that begins,
    but the first, as large a part of the layers' matrices is frozen.

    They are counted, and drawn anew each round, as modules: a bias goes with its matrix, and so does the norm of a
    query or key. Other norms, embedding and head learn throughout.
    """

    stages: int = 10  # HFT paper, Table 22: another 10% each 10% of training

    name = "dynamic_freezing"
    uses = frozenset({"changing_parameters"})

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        COUNT.check("strategy.stages", self.stages)

    def trainable(self, round: Round, step: int, model: nn.Module) -> Collection[str] | None:
        steps = sum(phase.steps(round.global_batch) for phase in self.phases(round))
        stage = step * self.stages // steps
        if step > 0 and stage == (step - 1) * self.stages // steps:
            return None
        modules = [
            module_of(name) for path, layer in decoder_layers(model).items() for name, _ in matrices(layer, path)
        ]
        drawn = Random(f"dynamic_freezing/{round.seed}/{round.number}").sample(modules, len(modules))
        frozen = parameters_of(model, drawn[: round_half_up(len(modules) * stage, self.stages)])
        return [name for name, _ in model.named_parameters() if name not in frozen]


def round_half_up(numerator: int, denominator: int) -> int:
    """The nearest whole number, without a float between."""
    return (2 * numerator + denominator) // (2 * denominator)
