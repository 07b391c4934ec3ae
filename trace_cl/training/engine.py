"""What an engine is: the only words it and the runner have in common, and the loss that every engine minimises."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from trace_cl.data.batches import IGNORED, Encoded
from trace_cl.strategies.base import Learner


@dataclass(frozen=True)
class Optimization:
    """AdamW's settings, at a fixed learning rate, and the norm the whole gradient is clipped to (HFT paper, A.3)."""

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0


class Trainer(Learner, Protocol):
    """One round's training: what a strategy may use of it (`Learner`), and what is the runner's own."""

    def backward(self, examples: Sequence[Encoded]) -> float:
        """Add the gradient of the mean loss over the answer tokens of all `examples`; give that loss.

        Every rank is handed the whole batch. How it is cut, over ranks and micro-batches, changes nothing.
        """
        ...

    def step(self) -> float:
        """Clip, step, forget the gradients; give the gradients' norm before clipping."""
        ...

    def close(self) -> None:
        """Let go of the optimizer, and bring the model back to where `place` would put it."""
        ...


class Engine(Protocol):
    """Where the weights lie, and how they are trained."""

    @property
    def partitioned(self) -> bool:
        """Whether each rank holds a part of the weights only, so that all must go through the model in step."""
        ...

    def place(self, model: PreTrainedModel) -> None:
        """Bring a freshly loaded model to the devices, ready to be evaluated."""
        ...

    def train(self, model: PreTrainedModel) -> Trainer:
        """Begin a round: whatever `requires_grad` learns. The optimizer's state begins afresh with it."""
        ...

    def weights(self, model: PreTrainedModel) -> dict[str, Any] | None:
        """The whole weights, for saving; every rank asks for them, the first alone needs an answer."""
        ...


class AnswerLoss(nn.Module):
    """A language model whose forward pass is its loss."""

    def __init__(self, model: PreTrainedModel, autocast: bool) -> None:
        super().__init__()
        self.model = model
        self.autocast = autocast

    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        """The sum of the token losses over the labelled positions; both arguments are B × L.

        The head is applied there alone: over a large vocabulary the logits of a whole prompt would be the largest
        tensor of the step, and none of them is learned from.
        """
        answers = labels != IGNORED
        return self.of_answers(self.hidden(input_ids)[answers], labels[answers])

    def precision(self, like: Tensor) -> torch.autocast:
        """bf16 where it is wanted; no weight's bf16 copy outlives its use, which would be half of the weights more."""
        return torch.autocast(like.device.type, torch.bfloat16, enabled=self.autocast, cache_enabled=False)

    def hidden(self, input_ids: Tensor) -> Tensor:
        """The last hidden states, B × L × H."""
        with self.precision(input_ids):
            states: Tensor = self.model.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state
            return states

    def of_answers(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """The loss of N positions: their hidden states N × H, and the N tokens that follow."""
        with self.precision(hidden):
            logits = self.model.get_output_embeddings()(hidden)
        return cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels, reduction="sum")


def checkpoint_gradients(model: PreTrainedModel, wanted: bool) -> None:
    """Keep each layer's input alone and compute the layer once more in the backward pass, or not."""
    if wanted:
        model.gradient_checkpointing_enable({"use_reentrant": False})


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


def hold(parameters: Iterable[nn.Parameter], dtype: torch.dtype) -> None:
    """Hold these weights in that dtype from now on."""
    for parameter in parameters:
        parameter.data = parameter.data.to(dtype)
