"""Mixout (Lee et al., ICLR 2020, arXiv 1909.11299): in training some weights are the pretrained model's again.

Of each matrix W what a random mask M chooses is put back to the pretrained W⁰, drawn anew with every step, and the rest
moved so that W is what comes out on average:

    W̃ = (M ⊙ W⁰ + (1 − M) ⊙ W − p · W⁰) / (1 − p)

It is dropout of W − W⁰, and acts as a penalty on that distance. When the model answers, W is used as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from .base import Bytes, Learner, LoadModel, Round, Unsuitable, shape_of
from .layers import decoder_layers, matrices
from .seqft import SeqFT
from .settings import BELOW_ONE
from .streams import stream


class MixedLinear(nn.Linear):
    """Another linear layer, of the very same parameters, whose weight is mixed in training if it learns.

    `number` tells the layers of one model apart. `base` is the weight to mix in (out × in); where there is none the
    weight itself, which changes nothing. The step's seed is `torch.initial_seed()`, so that all micro-batches of a
    step, all ranks and a layer that is computed once more (gradient checkpointing) see one and the same mask.
    """

    weight: nn.Parameter

    def __init__(self, plain: nn.Linear, p: float, mask: str, number: int) -> None:
        nn.Module.__init__(self)  # the parameters are there already
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight = plain.get_parameter("weight")
        self.register_parameter("bias", plain.bias)
        self.p, self.mask, self.number = p, mask, number
        self.base: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Inputs … × in; outputs … × out."""
        mixes = self.training and self.p > 0 and self.weight.requires_grad
        return linear(input, self.mixed() if mixes else self.weight, self.bias)

    def mixed(self) -> Tensor:
        """W̃. A whole column is chosen (all that one neuron of the input gives on), or each weight by itself."""
        base = self.weight.detach() if self.base is None else self.base
        generator = torch.Generator(self.weight.device)
        generator.manual_seed(stream(torch.initial_seed(), "mixout", self.number))
        size = (1, self.in_features) if self.mask == "column" else (self.out_features, self.in_features)
        chosen = torch.rand(size, generator=generator, device=self.weight.device) < self.p
        # The definition, for either value of M, without the difference of large numbers.
        return torch.where(chosen, base, self.weight + (self.weight - base) * (self.p / (1 - self.p)))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p}, mask={self.mask}, number={self.number}"


@dataclass
class Mixout(SeqFT):
    """Sequential fine-tuning in which the matrices of the transformer layers are mixed with the pretrained ones.

    `p` is the probability that a weight is the pretrained one in a step. `mask=column` draws for all weights of an
    input's neuron together, as the paper's mixout and its authors' code do; `mask=weight` draws for each weight by
    itself.
    """

    p: float = 0.5  # ours: as much is learned as by SeqFT; its authors' example for transformers has 0.9
    mask: str = "column"  # the paper's, section 1

    name = "mixout"

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        BELOW_ONE.check("strategy.p", self.p)
        if self.mask not in ("column", "weight"):
            raise ValueError(f"strategy.mask={self.mask} is not one of column, weight")

    def build(self, load: LoadModel, checkpoint: Path | None, rounds: Sequence[Round]) -> PreTrainedModel:
        """Raises Unsuitable for a model one of whose layers' matrices is none of a linear layer."""
        self.load, model = load, load(checkpoint)
        self.layers: dict[str, MixedLinear] = {}
        for name in [name for path, layer in decoder_layers(model).items() for name, _ in matrices(layer, path)]:
            path, _, leaf = name.rpartition(".")
            parent, _, child = path.rpartition(".")
            module = model.get_submodule(path)
            if leaf != "weight" or not isinstance(module, nn.Linear):
                raise Unsuitable(
                    f"strategy=mixout mixes the weights of linear layers, and {name} of {type(model).__name__} is none "
                    "(it belongs to a Conv1D, or to many experts): choose another strategy, as l2sp"
                )
            self.layers[path] = MixedLinear(module, self.p, self.mask, len(self.layers))
            setattr(model.get_submodule(parent), child, self.layers[path])
        model.eval()
        return model

    def learning(self) -> dict[str, MixedLinear]:
        """What is mixed in this round, by its path."""
        return {path: layer for path, layer in self.layers.items() if layer.weight.requires_grad and self.p > 0}

    def begin_round(self, round: Round, learner: Learner) -> None:
        # Whole on each rank, as the weights themselves are while a layer is at work.
        if learning := self.learning():
            base = self.load(None)
            for path, layer in learning.items():
                layer.base = base.get_parameter(f"{path}.weight").detach().to(layer.weight.device)

    def end_round(self, round: Round, learner: Learner) -> dict[str, Any]:
        for layer in self.layers.values():
            layer.base = None
        return {}

    def extra_bytes(self, round: Round, trainable: int) -> Bytes:
        weights = [layer.weight for layer in self.learning().values()]
        return Bytes(device=sum(shape_of(weight).numel() * weight.element_size() for weight in weights))
