"""How many bytes a round needs on each device, counted before anything is allocated: to train, and then to answer.

Weights, gradients and optimizer follow from which parameters learn and how they are spread over the ranks (ZeRO,
arXiv 1910.02054, section 3). Activations are counted by a step itself, gone through on tensors that have shapes and no
values. While the round's answers are scored gradients and optimizer are gone, and keys and values of past tokens there.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol
from unittest.mock import patch
from weakref import ref

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from trace_cl.data.batches import AT_ONCE, DRAFT, answer_tokens, within_budget
from trace_cl.strategies.base import Batch, Bytes, Example, bytes_of, shape_of
from trace_cl.strategies.layers import decoder_layers
from trace_cl.training.engine import checkpoint_gradients, trainable
from trace_cl.training.layout import Layout
from trace_cl.training.loss import LanguageModel

FP32 = 4
CONTEXT = 2 * 2**30
"""Bytes of a GPU that a run cannot use itself, by experience: CUDA's context, the libraries' work space, what the ranks
talk through, and the gaps between what the allocator has handed out."""

PERSISTENT = 100_000
"""ZeRO-3 leaves parameters of at most this many numbers whole on every rank once they are gathered."""


class Answered(Protocol):
    """A task as far as it is answered."""

    @property
    def answer_tokens(self) -> int: ...

    @property
    def prompts(self) -> Sequence[Sequence[int]]: ...


@dataclass(frozen=True)
class Memory:
    """Bytes on each device; `strategy` is what the strategy keeps besides: GEM its memories' gradients.

    `answering` is what takes the place of all of them when the round is scored, but for the `scoring_cache`; the
    `context` is always there. `host` is what an offloaded optimizer and the strategy keep in main memory, of each
    process.
    """

    weights: int
    gradients: int
    optimizer: int
    strategy: int = 0
    activations: int = 0
    answering: int = 0
    scoring_cache: int = 0
    context: int = 0
    host: int = 0

    @classmethod
    def of(
        cls,
        parameters: Iterable[nn.Parameter],
        dtype: torch.dtype,
        layout: Layout,
        extra_bytes: Callable[[int], Bytes] = lambda learning: Bytes(),
        activations: int = 0,
    ) -> "Memory":
        """Of these parameters, those that learn and those that do not; `extra_bytes` tells, of so many learning on one
        device, what the strategy keeps.

        Below stage 2 a device holds everything: frozen weights as they are, what learns in fp32, with its
        gradient and AdamW's two moments. From stage 2 on the optimizer has an fp32 copy of what learns, and it, the
        moments and the gradients are dealt out; in stage 3 the weights too.
        """
        sizes = {p: (shape_of(p).numel(), p.requires_grad) for p in parameters}
        everything = sum(bytes_of(p, dtype) for p in sizes)
        learning = sum(size for size, learns in sizes.values() if learns)
        share = learning if layout.stage == 0 else -(-learning // layout.ranks)
        extra = extra_bytes(share)
        if layout.stage == 0:
            held = FP32 if layout.held_in_fp32(dtype) else dtype.itemsize
            return cls(
                weights=everything + learning * (held - dtype.itemsize),
                gradients=learning * FP32,
                optimizer=learning * 2 * FP32,
                strategy=extra.device,
                activations=activations,
                host=extra.host,
            )
        weights = everything
        if layout.stage == 3:
            persistent = sum(size for size, _ in sizes.values() if size <= PERSISTENT)
            weights = weights // layout.ranks + persistent * dtype.itemsize
        return cls(
            weights=weights,
            gradients=0 if layout.offload_optimizer else share * FP32,
            optimizer=0 if layout.offload_optimizer else share * 3 * FP32,
            strategy=extra.device,
            activations=activations,
            host=extra.host + (share * 4 * FP32 if layout.offload_optimizer else 0),
        )

    @property
    def training(self) -> int:
        """The most that the device holds while it trains."""
        return self.context + self.weights + self.gradients + self.optimizer + self.strategy + self.activations

    @property
    def total(self) -> int:
        """The most that the device ever holds."""
        return max(self.training, self.context + self.answering + self.scoring_cache)


def streaming(
    model: PreTrainedModel, dtype: torch.dtype, layout: Layout, batches: Sequence[Sequence[Example]]
) -> Bytes:
    """What is held while the inner products of gradients on these batches are taken (`layerwise`): of what learns in a
    layer (or outside of all) each gradient, and one more that is being made; on each batch's tokens the gradient of the
    hidden states, and in main memory what each layer is given.

    `model` is one with this round's parameters learning.
    """
    if not batches:
        return Bytes()
    layers = list(decoder_layers(model).values())
    embeddings, inside = model.get_input_embeddings(), {p for layer in layers for p in layer.parameters()}
    outside = set(model.parameters()) - inside - set(embeddings.parameters())
    head = model.get_output_embeddings()
    # A tied head's gradient is not whole before the embeddings' is.
    waiting = _learning(embeddings.parameters()) if head is not None and head.weight is embeddings.weight else 0
    apart = [_learning(layer.parameters()) for layer in layers] + [_learning(outside)]
    most = max(waiting + max(apart), _learning(embeddings.parameters()))
    held = most if layout.stage == 0 else -(-most // layout.ranks)
    tokens = -(-sum(len(batch) * max(map(len, batch)) for batch in batches) // layout.ranks)
    width = model.config.get_text_config().hidden_size
    hidden = tokens * width * (FP32 if layout.held_in_fp32(dtype) else dtype.itemsize)
    return Bytes(device=FP32 * (len(batches) * held + most) + hidden, host=len(layers) * hidden)


def _learning(parameters: Iterable[nn.Parameter]) -> int:
    return sum(shape_of(p).numel() for p in parameters if p.requires_grad)


def largest_micro_batch(
    pools: Iterable[Sequence[Example]], tokens_per_batch: int, global_batch: int
) -> tuple[int, int, int]:
    """Rows and padded length of the micro-batch with the most tokens that can be drawn from one of these pools of
    examples, and the most answer tokens that one can have."""
    shape, answers = (0, 0), 0
    for pool in pools:
        for group in within_budget([len(example) for example in pool], tokens_per_batch):
            batch = [pool[index] for index in group[:global_batch]]
            shape = max(shape, (len(batch), max(map(len, batch)) - 1), key=math.prod)
            answers = max(answers, answer_tokens(batch))
    return (*shape, answers)


def largest_answered(tasks: Iterable[Answered], tokens_per_batch: int) -> tuple[int, int, int]:
    """The batch with the most tokens, padding and answers counted, of those in which prompts are answered: rows, padded
    length of the prompts, and length of the answers."""
    shape = (0, 0, 0)
    for task in tasks:
        lengths = [len(prompt) + task.answer_tokens for prompt in task.prompts]
        for group in within_budget(lengths, tokens_per_batch):
            shape = max(shape, (len(group), len(task.prompts[group[0]]), task.answer_tokens), key=answered)
    return shape


def answered(batch: tuple[int, int, int]) -> int:
    """How many tokens such a batch comes to have."""
    rows, prompt, answer = batch
    return rows * (prompt + answer)


def answering(model: PreTrainedModel, dtype: torch.dtype, batch: tuple[int, int, int]) -> tuple[int, int]:
    """Bytes at work while the prompts of such a batch are read; and those of `scoring_cache`."""
    rows, length, _ = batch
    together = max(1, min(rows, AT_ONCE // length))
    cache = scoring_cache(model, dtype, batch)
    with without_values(model, dtype, dtype) as model, torch.no_grad():
        ids = torch.zeros(together, length, dtype=torch.long)
        with Alive(model) as alive:
            model.get_decoder()(input_ids=ids, use_cache=False)
    # A beginning that was read before needs a mask besides: of truth values, and of numbers that attention adds.
    return alive.most + together * length**2 * (1 + dtype.itemsize), cache


def scoring_cache(model: PreTrainedModel, dtype: torch.dtype, batch: tuple[int, int, int]) -> int:
    """Bytes of the keys and values that every layer keeps of such a batch's prompts and answers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rows, length, longest = batch
    return int(2 * config.num_hidden_layers * heads * width * rows * (length + longest + DRAFT) * dtype.itemsize)


def activations(model: PreTrainedModel, dtype: torch.dtype, layout: Layout, micro_batch: tuple[int, int, int]) -> int:
    """Bytes that a micro-batch takes at the moment in which it takes most, besides weights and gradients.

    Forward and backward pass are gone through, and layers that are computed twice are so here too. An earlier
    micro-batch has left its gradients, which these are added to. `model` is one with this round's parameters learning;
    its weights are not looked at, and may be on the meta device.
    """
    rows, length, answers = micro_batch
    autocast = layout.held_in_fp32(dtype)
    with without_values(model, dtype, torch.float32 if autocast else dtype) as model:
        checkpoint_gradients(model.train(), layout.gradient_checkpointing)
        for parameter in trainable(model).values():
            parameter.grad = torch.empty_like(parameter)
        objective = LanguageModel(model, autocast=autocast)
        batch = Batch(
            input_ids=torch.zeros(rows, length, dtype=torch.long),
            positions=torch.arange(answers),
            targets=torch.zeros(answers, dtype=torch.long),
            total=answers,
            examples=[],
        )
        with Alive(model) as alive:
            objective(batch).backward()
    return int(alive.most)


@contextmanager
def without_values(model: PreTrainedModel, frozen: torch.dtype, learning: torch.dtype) -> Iterator[PreTrainedModel]:
    """A copy of the model to go through on tensors that have shapes and no values, and pretend to be in main memory; in
    these dtypes what is frozen in it, and what learns."""
    # What is in the memo counts as copied: of the weights nothing is.
    without = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    model = copy.deepcopy(model, without)
    # The library's own product of experts is told of no shapes but bf16's; the one it falls back on, which keeps the
    # same tensors, is.
    grouped = patch("transformers.integrations.moe._can_use_grouped_mm", return_value=False, create=True)
    with FakeTensorMode(allow_non_fake_inputs=True), grouped:
        fresh: dict[nn.Parameter, nn.Parameter] = {}
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    weights = torch.empty(parameter.shape, dtype=learning if parameter.requires_grad else frozen)
                    pretended = nn.Parameter(weights, parameter.requires_grad)
                    module._parameters[name] = fresh.setdefault(parameter, pretended)
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else torch.empty(buffer.shape, dtype=buffer.dtype)
        yield model


class Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that are made and not yet let go of: those `now`, and the `most` at any time. A
    storage counts once; the model's weights and gradients do not."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.most: int = 0
        gradients = (parameter.grad for parameter in model.parameters() if parameter.grad is not None)
        self.held = [tensor.untyped_storage() for tensor in chain(model.parameters(), model.buffers(), gradients)]
        self.sizes = {ref(storage): 0 for storage in self.held}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        if (key := ref(storage, self._let_go)) not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)

    def _let_go(self, key: "ref[torch.UntypedStorage]") -> None:
        self.now -= self.sizes.pop(key)
