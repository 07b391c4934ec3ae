"""Merging: when a round has ended, what it learned is merged with the pretrained model, or with the model before it.

What is merged are task vectors, the differences to the pretrained model, τ = θ − θ_base (Ilharco et al., ICLR 2023,
arXiv 2212.04089). With λ for `weight`, the round ends at

    θ_base + f(λ τ_t)                           other=base: the pretrained model's own vector is nothing
    θ_base + f((1 − λ) τ_{t−1}, λ τ_t)          other=previous

and f, which the library has (peft.utils.merge_utils), is

    average    the sum (Wortsman et al., ICML 2022, arXiv 2203.05482)
    dare       the sum, after numbers were dropped of each vector at random and the others scaled up to make good for
               them (Yu et al., ICML 2024, arXiv 2311.03099)
    ties       the largest numbers of each vector are kept; at each weight the sign of their sum is elected, and the
               mean taken of those that have it (Yadav et al., NeurIPS 2023, arXiv 2306.01708, Algorithm 1)
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils.merge_utils import dare_linear, task_arithmetic, ties
from torch import Tensor
from torch.random import fork_rng
from transformers import PreTrainedModel

from .base import Bytes, Learner, LoadModel, Parts, Round
from .seqft import SeqFT
from .settings import Range
from .streams import stream

HOWS, OTHERS = ("average", "ties", "dare"), ("base", "previous")


@dataclass
class Merge(SeqFT):
    """Sequential fine-tuning, each round's result merged with another model: with what learned in the round alone.

    `how` is `average`, `ties` or `dare`; `other` is the pretrained model (`base`) or the one that the round began with
    (`previous`). The round's own task vector counts `weight`, that of the previous model the rest: 1 merges with
    nothing. Of each vector TIES and DARE keep the share `density` (of each tensor by itself).
    """

    how: str = "average"
    other: str = "previous"
    weight: float = 0.5  # both alike, as in the papers
    density: float = 0.2  # TIES, which keeps the top 20%; of a large model DARE drops 90% and more (its abstract)

    name = "merge"
    uses = frozenset({"weights"})

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        for key, value, choices in (("how", self.how, HOWS), ("other", self.other, OTHERS)):
            if value not in choices:
                raise ValueError(f"strategy.{key}={value} is not one of {', '.join(choices)}")
        for key, share in (("weight", self.weight), ("density", self.density)):
            Range(0, 1, above=True).check(f"strategy.{key}", share)

    def build(self, load: LoadModel, checkpoint: Path | None, rounds: Sequence[Round]) -> PreTrainedModel:
        self.load, model = load, load(checkpoint)
        self.dtype, self.sizes = model.dtype, [parameter.numel() for parameter in model.parameters()]
        return model

    def begin_round(self, round: Round, learner: Learner) -> None:
        # Between rounds weights are held in the model's dtype: nothing is rounded.
        previous = learner.weights() if self.other == "previous" else {}
        self.previous = {name: part.to("cpu", self.dtype, copy=True) for name, part in previous.items()}

    def end_round(self, round: Round, learner: Learner) -> dict[str, Any]:
        """Merge tensor by tensor on the first rank, which alone has them whole, and deal out what comes of it."""
        base: dict[str, Tensor] = {}
        merged: Parts = {}
        for name, part in learner.weights().items():
            now = learner.gather({name: part})
            before = learner.gather({name: self.previous[name]}) if self.previous else {}
            if now:
                base = base or {name: weight.detach() for name, weight in self.load(None).named_parameters()}
                models = [*before.values(), *now.values()]
                now[name] = self.merge(base[name], models, stream(round.seed, "merge", round.number, name))
            merged[name] = learner.scatter(now)[name].cpu()  # no device need hold all of them twice
        learner.set_weights(merged)
        self.previous = {}
        return {}

    def merge(self, base: Tensor, models: Sequence[Tensor], seed: int) -> Tensor:
        """A tensor of the round's result, the last of `models`, merged with that of the others (all of one shape)."""
        now = models[-1]
        shares = (1 - self.weight, self.weight)[-len(models) :]
        # What counts nothing elects no sign.
        vectors = [model.to(now) - base.to(now) for model, share in zip(models, shares, strict=True) if share]
        weights = now.new_tensor([share for share in shares if share])
        with fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(seed)
            warnings.filterwarnings("ignore", "The density .* no pruning will be performed")
            if self.how == "average":
                vector = task_arithmetic(vectors, weights)
            elif self.how == "dare":
                vector = dare_linear(vectors, weights, self.density)
            else:
                # It divides by how many agree: with weights of 1 it is their mean.
                vector = ties(vectors, weights * len(vectors), self.density)
        # What is taken away and added again leaves a rounding error behind.
        return torch.where(vector == vectors[-1], now, base.to(now) + vector)

    def extra_bytes(self, round: Round, trainable: int) -> Bytes:
        """Of the first process: the merged weights, the previous ones, the base model, and one tensor several times."""
        previous = self.dtype.itemsize if self.other == "previous" else 0
        tensor = 8 * 4 * max(self.sizes)
        return Bytes(host=(4 + previous) * trainable + self.dtype.itemsize * sum(self.sizes) + tensor)
