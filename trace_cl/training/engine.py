"""What an engine is: the only words it and the runner have in common."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trace_cl.strategies.base import Answerer, Batch, Example, Learner, Parts
from trace_cl.training.loss import Loss, plain

WEIGHTS, MOMENTS = "weights", ("exp_avg", "exp_avg_sq")
"""The kinds of tensors that a round in its middle consists of; the moments by PyTorch's names."""


@dataclass(frozen=True)
class Optimization:
    """AdamW's settings, at a fixed learning rate, and the norm the whole gradient is clipped to (HFT paper, A.3)."""

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0


class RoundLearner(Learner, Protocol):
    """One round's training: what a strategy may use of it (`Learner`), and what is the runner's own."""

    def change(self) -> None:
        """What learns has changed (`requires_grad`): newcomers begin without optimizer state, leavers lose theirs."""
        ...

    def state(self) -> tuple[dict[str, int], dict[str, Parts]]:
        """How many steps each parameter has made in this round; and by kind, its weights and AdamW's two moments."""
        ...

    def begin_from(self, steps: dict[str, int]) -> None:
        """Let the optimizer have made so many steps; its moments follow."""
        ...

    def put_state(self, kind: str, parts: Parts) -> None:
        """Put some of what `state` gave in its place again."""
        ...

    def examine(self, example: Example) -> tuple[float, float | None]:
        """An example's own loss, and its gradient's norm where that is cheap; gradients at hand are lost."""
        ...

    def close(self) -> None:
        """Let go of the optimizer, and bring the model back to where `to_devices` would put it."""
        ...


class Engine(Protocol):
    """Where the weights lie, and how they are trained."""

    def to_devices(self, model: PreTrainedModel) -> None:
        """Bring a freshly loaded model to the devices, ready to be evaluated, in the place of any before it."""
        ...

    def train(self, model: PreTrainedModel, loss: Loss = plain, answerer: Answerer | None = None) -> RoundLearner:
        """Begin a round: whatever `requires_grad` learns. The optimizer's state begins afresh with it.

        `answerer` is what a strategy generates with during the round.
        """
        ...

    def weights(self, model: PreTrainedModel) -> dict[str, Any] | None:
        """The whole weights, for saving; every rank asks for them, the first alone needs an answer."""
        ...


class Tally:
    """A step's loss and the terms noted of it, summed over its micro-batches in float64, where the model is."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), device=device, dtype=torch.float64)
        self.notes: dict[str, Tensor] = {}

    def add(self, loss: Tensor, batch: Batch) -> None:
        """A micro-batch."""
        self.loss += loss.detach()
        for name, term in batch.notes.items():
            self.notes[name] = self.notes.get(name, 0.0) + term.double()

    def sums(self) -> Tensor:
        """The loss and then the terms, 1 + n."""
        return torch.stack([self.loss, *(self.notes[name] for name in sorted(self.notes))])

    def read(self, sums: Tensor) -> tuple[float, dict[str, float]]:
        """The loss, and the terms by name, out of `sums` or of its sum over ranks."""
        loss, *terms = sums.tolist()
        return loss, dict(zip(sorted(self.notes), terms, strict=True))


def checkpoint_gradients(model: PreTrainedModel, wanted: bool) -> None:
    """Keep each layer's input alone and compute the layer once more in the backward pass, or not."""
    if wanted:
        # The older name, which warns, is all that transformers has before 5.23.
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable({"use_reentrant": False})


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """What learns, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def adamw(parameters: Iterable[nn.Parameter], optimization: Optimization) -> torch.optim.AdamW:
    """The optimizer, with no state yet."""
    return torch.optim.AdamW(
        parameters,
        lr=optimization.learning_rate,
        betas=optimization.betas,
        eps=optimization.eps,
        weight_decay=optimization.weight_decay,
        fused=True,
    )


def cast(parameters: Iterable[nn.Parameter], dtype: torch.dtype) -> None:
    """Hold these weights in that dtype from now on."""
    for parameter in parameters:
        parameter.data = parameter.data.to(dtype)
