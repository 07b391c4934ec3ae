"""AutoFreeze (Liu et al., arXiv 2102.01386): front layers whose gradients have settled are frozen.

Several times an epoch each layer's gradients since the last test are summed up, and the sum's norm ‖Δ‖ is held against
that of the test before: η = |‖Δ_before‖ − ‖Δ‖| / ‖Δ_before‖. Of the layers that still learn, those in front of the
first whose η reaches a given percentile of all are frozen: what has changed least, as far as it can be left out of the
backward pass.

Norm (L1), when it is tested, and from where on layers are compared are as in the authors' code
(github.com/YuhanLiu11/AutoFreeze).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from .base import Bytes, Held, Learner, LoadModel, Parts, Round
from .layers import decoder_layers
from .seqft import SeqFT
from .settings import COUNT, Range

PERCENT = Range(0, 100)


@dataclass
class AutoFreeze(SeqFT):
    """Sequential fine-tuning that freezes front layers, ever more of them within a round, by what their gradients do.

    `tests` is how often an epoch they are looked at; `percentile` which of the layers' changes is the least with which
    a layer goes on learning: with 0 nothing is ever frozen. With the first layer the embedding is frozen, unless it is
    the head too. Every round begins with all of the model.
    """

    tests: int = 5  # the authors' command: 20 in 4 epochs
    percentile: float = 50.0  # the authors' default

    name = "autofreeze"
    uses = frozenset({"gradients", "changing_parameters"})

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        COUNT.check("strategy.tests", self.tests)
        PERCENT.check("strategy.percentile", self.percentile)
        self.frozen = 0
        self.due = False

    def build(self, load: LoadModel, checkpoint: Path | None, rounds: Sequence[Round]) -> PreTrainedModel:
        model = load(checkpoint)
        self.layers = [f"{path}." for path in decoder_layers(model)]
        return model

    def begin_round(self, round: Round, learner: Learner) -> None:
        phases = self.phases(round)
        steps, epochs = sum(phase.steps(round.global_batch) for phase in phases), sum(phase.epochs for phase in phases)
        self.interval = max(1, steps // (self.tests * epochs))
        self.steps = self.frozen = 0
        self.due = False
        self.sums: Parts = {}
        self.before: dict[int, float] = {}

    def trainable(self, round: Round, step: int, model: nn.Module) -> Collection[str] | None:
        """All at a round's beginning, so that the plan counts the most there can be; later what a test has left, told
        once."""
        names = [name for name, _ in model.named_parameters()]
        if step == 0:
            return names
        if not self.due:
            return None
        self.due = False
        frozen, embeddings = tuple(self.layers[: self.frozen]), input_embeddings(model)
        return [name for name in names if not name.startswith(frozen) and name not in embeddings]

    def adjust_gradients(self, round: Round, learner: Learner) -> dict[str, Any]:
        """Look at the gradients, and leave them as they are."""
        gradient = learner.take_gradients()
        for name, part in gradient.items():
            if name.startswith(tuple(self.layers)):
                self.sums[name] = self.sums[name].add_(part) if name in self.sums else part.clone()
        learner.put_gradients(gradient)
        self.steps += 1
        told: dict[str, Any] = {"frozen_layers": self.frozen}
        if self.steps % self.interval == 0:
            told["gradient_change"] = self.test()
        return told

    def test(self) -> dict[str, float]:
        """Freeze what has settled; gives η by layer, nothing at a round's first test."""
        norms = {
            number: float(sum(part.double().abs().sum() for name, part in self.sums.items() if name.startswith(layer)))
            for number, layer in enumerate(self.layers)
        }
        norms = {number: norm for number, norm in norms.items() if norm > 0}  # of what does not learn there is none
        change = {
            number: abs(self.before[number] - norm) / self.before[number]
            for number, norm in norms.items()
            if number in self.before
        }
        if change and (first := first_unsettled(change, self.percentile)) > self.frozen:
            self.frozen, self.due = first, True
        self.before, self.sums = norms, {}
        return {str(number): value for number, value in change.items()}

    def end_round(self, round: Round, learner: Learner) -> dict[str, Any]:
        self.sums = {}
        return {"frozen_layers": self.frozen}

    def extra_bytes(self, round: Round, trainable: int) -> Bytes:
        return Bytes(device=4 * trainable)

    def hold(self) -> Held:
        values = {"steps": self.steps, "frozen": self.frozen, "before": list(self.before.items())}
        return Held(values, {"sums": self.sums})

    def resume(self, held: Held) -> None:
        self.steps, self.frozen = held.values["steps"], held.values["frozen"]
        self.before = dict(held.values["before"])
        self.sums = held.parts.get("sums", {})
        self.due = self.frozen > 0  # what is frozen is not known yet to whoever goes on from here


def first_unsettled(change: Mapping[int, float], percentile: float) -> int:
    """The first layer whose change is not below the percentile of all layers' changes."""
    least = np.percentile(list(change.values()), percentile)
    return next(number for number, value in sorted(change.items()) if value >= least)


def input_embeddings(model: nn.Module) -> set[str]:
    """The names of the embeddings' weights that are not the head's as well."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and (head is None or module.weight is not head.weight)
    }
