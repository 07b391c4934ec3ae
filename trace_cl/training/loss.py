"""The loss that every engine minimises: the model's own, at the answer positions alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trace_cl.strategies.base import Batch, Model, Observer

Loss = Callable[[Model, Batch], Tensor]
"""A strategy's loss: what a micro-batch adds to the step's."""


def plain(model: Model, batch: Batch) -> Tensor:
    """The mean cross-entropy over the answer tokens, and nothing else."""
    return model.mean(batch)


class LanguageModel(nn.Module):
    """A language model as a strategy's loss sees it; its forward pass is that loss, a scalar."""

    def __init__(self, model: PreTrainedModel, loss: Loss = plain, autocast: bool = False) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.autocast = autocast
        self.observers = [module for module in model.modules() if isinstance(module, Observer)]

    def forward(self, batch: Batch) -> Tensor:
        """What the batch adds to the step's loss."""
        return self.loss(self, batch)

    def logits(self, batch: Batch) -> Tensor:
        """N × vocabulary, at the answer positions alone: over a large vocabulary the logits of whole prompts would be
        the largest tensor of the step, and none of them is learned from.

        It is the model's own forward pass, whose decoder hands on the hidden states of these positions as if there
        were no others: whatever the model does with them (a head, scales, soft caps) is done.
        """
        for observer in self.observers:
            observer.look_at(batch)
        with self.precision(), handing_on(self.model.get_decoder(), batch):
            logits: Tensor = self.model(input_ids=batch.input_ids, use_cache=False).logits
        return logits.squeeze(0)  # whose gradient is a view, too: an index's would be a second tensor of this size

    def precision(self) -> torch.autocast:
        """What the model is to be run under. No weight's bf16 copy outlives its use, which would be half of the weights
        more."""
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.autocast, cache_enabled=False)

    def mean(self, batch: Batch) -> Tensor:
        """The batch's part of the mean cross-entropy over the step's answer tokens."""
        return batch.cross_entropy(self.logits(batch))


@contextmanager
def handing_on(decoder: nn.Module, batch: Batch) -> Iterator[None]:
    """Let the decoder's output be the hidden states at the answer positions, 1 × N × H.

    The positions are counted from the right: a model may put something of its own before the text.
    """

    def answers_alone(module: nn.Module, inputs: Any, output: Any) -> Any:
        hidden = output.last_hidden_state[:, -batch.input_ids.shape[1] :]
        output.last_hidden_state = hidden.flatten(0, 1)[batch.positions][None]
        return output

    hook = decoder.register_forward_hook(answers_alone)
    try:
        yield
    finally:
        hook.remove()
