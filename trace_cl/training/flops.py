"""How many floating-point operations a model does on a text, counted and not measured.

An operation is an addition or a multiplication in a matrix product; whatever else is done is small beside these. Of a
text of L tokens, with logits at A of them, they are linear·L + attention·L² + head·A: three passes over short texts, on
tensors that have shapes and no values, give the three numbers. Attention is counted over the whole square of the text
though no token sees those after it, as is usual (PaLM, arXiv 2204.02311, appendix B), and though a layer may see a
window only; a layer that is computed twice is counted once. What a strategy does besides is not known here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import PreTrainedModel

from trace_cl.strategies.base import Batch, Phase, shape_of
from trace_cl.training.engine import trainable
from trace_cl.training.loss import LanguageModel
from trace_cl.training.memory import Answered, without_values

SHORT, LONG = 8, 16
"""Tokens of the texts that are counted with."""


@dataclass(frozen=True)
class Flops:
    """Operations for each token, for each pair of a text's tokens, and for each position that logits are asked for."""

    linear: int
    attention: int
    head: int

    def of(self, texts: Iterable[tuple[int, int]]) -> int:
        """Of texts of so many tokens, with logits at so many of them."""
        return sum(self.linear * length + self.attention * length**2 + self.head * asked for length, asked in texts)


def count(model: PreTrainedModel, learning: bool = True) -> Flops:
    """Of the forward pass and, `learning`, of the backward pass: weights that do not learn have no gradient made.

    `model` may be on the meta device.
    """
    with without_values(model, torch.float32, torch.float32) as model:
        model.set_attn_implementation("eager")  # matrix products, as they can be counted
        model.eval()  # dropout multiplies no matrices
        short, long, asked = (_passes(model, *text, learning) for text in ((SHORT, 1), (LONG, 1), (SHORT, 2)))
    head = asked - short
    # short − head = linear·S + attention·S², and long − head the same of L = 2S.
    attention = (long - head - 2 * (short - head)) // (LONG**2 - 2 * SHORT**2)
    return Flops((short - head) // SHORT - attention * SHORT, attention, head)


def training(model: PreTrainedModel, phases: Sequence[Phase], known: dict[Any, Flops]) -> int:
    """Of a round whose parameters learn: every epoch of its phases. What is counted once is `known` from then on."""
    if not phases:
        return 0
    learns = trainable(model)
    # Where the embeddings learn every layer hands a gradient on, and of what else learns the sizes alone matter.
    first = all(parameter.requires_grad for parameter in model.get_input_embeddings().parameters())
    key = tuple(sorted(shape_of(p).numel() for p in learns.values())) if first else tuple(learns)
    if key not in known:
        known[key] = count(model)
    return sum(phase.epochs * known[key].of((len(e) - 1, len(e.answer)) for e in phase.examples) for phase in phases)


def answering(tasks: Iterable[Answered], forward: Flops) -> int:
    """Of all answers to these tasks' prompts at the most: each as long as it may be."""
    return sum(forward.of((len(prompt) + t.answer_tokens, t.answer_tokens) for prompt in t.prompts) for t in tasks)


def _passes(model: PreTrainedModel, length: int, asked: int, learning: bool) -> int:
    nothing = torch.zeros(asked, dtype=torch.long)
    batch = Batch(torch.zeros(1, length, dtype=torch.long), nothing, nothing, asked, [])
    with Counter() as counter, torch.set_grad_enabled(learning):
        loss = LanguageModel(model)(batch)
        if learning:
            loss.backward()
    return int(counter.total)


class Counter(TorchDispatchMode):
    """Adds up what each product costs, by PyTorch's own list. (Its `FlopCounterMode` keeps account by module too, which
    takes longer.)"""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if (cost := flop_registry.get(func._overloadpacket)) is not None:
            self.total += cost(*args, **(kwargs or {}), out_val=made)
        return made
