"""The engine on a single device, in plain PyTorch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trace_cl.data.batches import Encoded, answer_tokens, collate, micro_batches
from trace_cl.strategies.base import Gradients
from trace_cl.training.engine import AnswerLoss, Optimization, adamw, checkpoint_gradients, hold, trainable


@dataclass(frozen=True)
class TorchEngine:
    """One device holds everything."""

    optimization: Optimization
    device: torch.device
    tokens_per_batch: int
    gradient_checkpointing: bool = False

    partitioned = False

    def place(self, model: PreTrainedModel) -> None:
        model.to(self.device)  # type: ignore[arg-type]  # the library's wrapper hides the method's own signature
        checkpoint_gradients(model, self.gradient_checkpointing)

    def train(self, model: PreTrainedModel) -> "TorchTrainer":
        return TorchTrainer(model, self.optimization, self.tokens_per_batch)

    def weights(self, model: PreTrainedModel) -> None:
        """None: the model's own `save_pretrained` finds them where they are."""


class TorchTrainer:
    """Trains one round.

    What learns is held in fp32 while it learns, whatever the model's dtype: at a learning rate of 1e-5 most of AdamW's
    updates are smaller than bf16 can tell apart. The frozen half stays as it is, and `close` brings the rest back.
    """

    def __init__(self, model: PreTrainedModel, optimization: Optimization, tokens_per_batch: int) -> None:
        self.model = model
        self.clip_norm = optimization.clip_norm
        self.tokens_per_batch = tokens_per_batch
        self.dtype = model.dtype
        self.loss = AnswerLoss(model, autocast=self.dtype == torch.bfloat16)
        self.parameters = trainable(model)
        if self.dtype == torch.bfloat16:
            hold(self.parameters.values(), torch.float32)
        self.optimizer = adamw(self.parameters.values(), optimization)
        model.train()

    def backward(self, examples: Sequence[Encoded]) -> float:
        """The micro-batches' sums are divided by the whole batch's token count, so how the batch is cut changes
        nothing."""
        total = answer_tokens(examples)
        loss = torch.zeros((), device=self.model.device, dtype=torch.float64)
        for micro_batch in micro_batches(examples, self.tokens_per_batch):
            input_ids, labels = (tensor.to(self.model.device) for tensor in collate(micro_batch))
            part = self.loss(input_ids, labels) / total
            part.backward()
            loss += part.detach()
        return loss.item()

    def take_gradients(self) -> Gradients:
        """Take the gradients away, by parameter name; the next backward begins from nothing."""
        taken = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in self.parameters.items()}
        self.optimizer.zero_grad(set_to_none=True)
        return taken

    def put_gradients(self, gradients: Gradients) -> None:
        """Put gradients in the place of what is there."""
        for name, parameter in self.parameters.items():
            parameter.grad = gradients[name]

    def sum_over_ranks(self, table: Tensor) -> Tensor:
        """The table itself: there is one rank."""
        return table

    def step(self) -> float:
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm.item()

    def close(self) -> None:
        hold(self.parameters.values(), self.dtype)
        self.model.eval()
