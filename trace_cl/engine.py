"""The engine on a single device: gradients of a global batch, and the optimizer's step."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from strategies.base import Gradients
from trace_cl.batches import IGNORED, Encoded, answer_tokens, collate, micro_batches


def answer_loss(model: PreTrainedModel, input_ids: Tensor, labels: Tensor) -> Tensor:
    """The sum of the token losses over the labelled positions.

    The head is applied there alone: over a large vocabulary the logits of a whole prompt would be the largest tensor of
    the step, and none of them is learned from.
    """
    hidden = model.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state
    answers = labels != IGNORED
    logits = model.get_output_embeddings()(hidden[answers])
    at_least_fp32 = torch.promote_types(logits.dtype, torch.float32)
    return cross_entropy(logits.to(at_least_fp32), labels[answers], reduction="sum")


class TorchEngine:
    """Trains one round. The optimizer's state begins afresh with it, because HFT changes what is trained.

    What learns is held in fp32 while it learns, whatever the model's dtype: at a learning rate of 1e-5 most of AdamW's
    updates are smaller than bf16 can tell apart. The frozen half stays as it is, and `close` brings the rest back.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
        clip_norm: float,
        tokens_per_batch: int,
    ) -> None:
        self.model = model
        self.clip_norm = clip_norm
        self.tokens_per_batch = tokens_per_batch
        self.dtype = model.dtype
        self.parameters: dict[str, nn.Parameter] = {n: p for n, p in model.named_parameters() if p.requires_grad}
        for parameter in self.parameters.values():
            if self.dtype == torch.bfloat16:
                parameter.data = parameter.data.float()
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True
        )
        model.train()

    def backward(self, examples: Sequence[Encoded]) -> float:
        """Add the gradient of the mean loss over the answer tokens of all `examples`; give that loss.

        The micro-batches' sums are divided by the whole batch's token count, so how the batch is cut changes nothing.
        """
        total = answer_tokens(examples)
        loss = torch.zeros((), device=self.model.device, dtype=torch.float64)
        for micro_batch in micro_batches(examples, self.tokens_per_batch):
            input_ids, labels = (tensor.to(self.model.device) for tensor in collate(micro_batch))
            with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                part = answer_loss(self.model, input_ids, labels) / total
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
        """Clip, step, forget the gradients; give the gradients' norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm.item()

    def close(self) -> None:
        """Bring the model back to its own dtype, ready to be evaluated and saved."""
        for parameter in self.parameters.values():
            parameter.data = parameter.data.to(self.dtype)
        self.model.eval()
