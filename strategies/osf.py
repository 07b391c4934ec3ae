"""OSF: orthogonal subspace fine-tuning (Nayak et al., ICLR 2026, arXiv 2504.07097), by peft's `OSFModel`.

Every matrix is taken apart into its singular directions, W = U_high S_high V_highᵀ + U_low S_low V_lowᵀ. The top ones,
taken to hold what was learned so far, stay as they are; the others learn, orthogonally to them. Between two rounds the
parts are put together again: the model is then a plain one, and is taken apart anew with more to preserve.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import OSFConfig
from peft.tuners.osf import OSFModel
from peft.tuners.osf.layer import OSFLayer
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from transformers import PreTrainedModel

from .base import Bytes, Learner, LoadModel, Round, Strategy
from .layers import linear_layers

ADAPTER = "default"
"""peft's name for its one set of factors."""


class Orthogonal(nn.Module):
    """What of a factor's columns (d × r; of its rows, where `rows`) is orthogonal to the preserved directions.

    They are the orthonormal columns of `basis` (d × k; its rows, where `rows`); or `basis` spans all the others.
    """

    basis: Tensor

    def __init__(self, basis: Tensor, spans_the_rest: bool, rows: bool) -> None:
        super().__init__()
        self.register_buffer("basis", basis, persistent=False)
        self.spans_the_rest = spans_the_rest
        self.rows = rows

    def forward(self, factor: Tensor) -> Tensor:
        """The factor, in its own shape."""
        basis = self.basis
        inside = (factor @ basis.T) @ basis if self.rows else basis @ (basis.T @ factor)
        return inside if self.spans_the_rest else factor - inside


@dataclass
class OSF(Strategy):
    """Learn in ever fewer singular directions: in the t-th of n rounds (t − 1)/n of each matrix's are preserved (the
    authors' schedule, as peft's documentation gives it). In the first the matrices learn whole, as they are.

    `target_modules` are the matrices that learn, by the ends of their names; null: all linear ones of the layers. All
    else is frozen. peft projects gradients alone, as the authors' code does, and AdamW, which scales each number by
    itself, turns its steps back towards what is to be preserved; here U_low and V_low are themselves projected wherever
    they are used, so that no optimizer can. A checkpoint is the plain model.
    """

    target_modules: list[str] | None = None  # as in the paper: attention and feed-forward matrices

    name = "osf"
    uses = frozenset({"whole_parameters"})
    changes_architecture = True

    def __post_init__(self) -> None:
        self.tuner: OSFModel | None = None

    def build(self, load: LoadModel, checkpoint: Path | None, rounds: Sequence[Round]) -> PreTrainedModel:
        model = load(checkpoint)
        self.rounds, self.targets = len(rounds), linear_layers(model, self.target_modules)
        return model

    def prepare(self, round: Round, model: PreTrainedModel) -> None:
        """Take the matrices apart, where there is something to preserve."""
        if self.tuner is not None and self.tuner.model is model:
            self.tuner.unload()
        self.tuner = None
        if not round.past:
            return
        matrices = [model.get_submodule(name).get_parameter("weight") for name in self.targets]
        # The parts are to be as exact as what learns, whatever the model's dtype; nothing is lost on the way and back.
        for matrix in matrices:
            matrix.data = matrix.data.float()
        config = OSFConfig(effective_rank=self.preserved(round), target_modules=self.targets)
        self.tuner = OSFModel(model, config, ADAPTER)
        for matrix in matrices:
            matrix.data = matrix.data.to(model.dtype)
        for name in self.targets:
            keep_orthogonal(model.get_submodule(name))

    def trainable(self, round: Round, step: int, model: nn.Module) -> Collection[str] | None:
        """The low parts of the matrices, or all of them."""
        learning = ".osf_svd_params." if round.past else "weight"
        inside = tuple(f"{name}." for name in self.targets)
        names = [name for name, _ in model.named_parameters() if name.startswith(inside) and learning in name]
        return names if step == 0 else None

    def end_round(self, round: Round, learner: Learner) -> dict[str, Any]:
        """Put the matrices together."""
        if self.tuner is not None:
            self.tuner.merge_and_unload()
            self.tuner = None
        return {"preserved_share": self.preserved(round)}

    def extra_bytes(self, round: Round, trainable: int) -> Bytes:
        """The parts as the round finds them, and what spans the preserved directions of matrices that are not square;
        of the round that the model was last prepared for."""
        if self.tuner is None:
            return Bytes()
        layers = [self.tuner.model.get_submodule(name) for name in self.targets]
        return Bytes(device=sum(buffer.nbytes for layer in layers for buffer in layer.buffers()))

    def preserved(self, round: Round) -> float:
        """The share of each matrix's singular directions that stay as they are."""
        return len(round.past) / self.rounds


def keep_orthogonal(layer: nn.Module) -> None:
    """Let a layer of peft's use of its low factors what is orthogonal to the preserved directions, and no more."""
    assert isinstance(layer, OSFLayer)
    high, low = (layer._osf_U_high, layer._osf_V_high), (layer._osf_U_low_init, layer._osf_V_low_init)
    for factor, preserved, rest in zip(("U_low", "V_low"), high, low, strict=True):
        # Where the low directions are all the others there are, peft keeps them instead.
        known = preserved if ADAPTER in preserved else rest
        projection = Orthogonal(known[ADAPTER], spans_the_rest=known is rest, rows=factor == "V_low")
        register_parametrization(layer.osf_svd_params[ADAPTER], factor, projection)
