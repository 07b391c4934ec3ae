"""How many bytes a round needs on each device, counted before anything is allocated: to train, and then to answer.

Weights, gradients and optimizer follow from which parameters learn and how they are spread over the ranks (ZeRO,
arXiv 1910.02054, section 3). Activations are counted by the forward pass itself, run on tensors that have shapes and no
values. While the round's answers are scored gradients and optimizer are gone, and keys and values of past tokens there.
"""

import copy
import math
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

from trace_cl.data.batches import answer_tokens, within_budget
from trace_cl.strategies.base import Batch, Bytes, Example, bytes_of, shape_of
from trace_cl.strategies.layers import decoder_layers
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
        """What the device holds at the end of a forward pass."""
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


def largest_answered(tasks: Iterable[Answered], tokens_per_batch: int) -> int:
    """Tokens, padding counted, of the largest batch of prompts and their answers."""
    most = 0
    for task in tasks:
        lengths = [len(prompt) + task.answer_tokens for prompt in task.prompts]
        groups = within_budget(lengths, tokens_per_batch)
        most = max([most, *(len(group) * lengths[group[0]] for group in groups)])
    return most


def answering(model: PreTrainedModel, dtype: torch.dtype, tokens: int) -> tuple[int, int]:
    """Bytes of a layer at work while so many tokens are answered; and of the keys and values that every layer keeps of
    them."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    inside = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    cache = 2 * config.num_hidden_layers * heads * width * tokens * dtype.itemsize
    # The widest moment is in the first layer's feed-forward: gate, up and their product, beside the residual stream.
    return tokens * (3 * inside + 2 * config.hidden_size) * dtype.itemsize, cache


def activations(model: PreTrainedModel, dtype: torch.dtype, layout: Layout, micro_batch: tuple[int, int, int]) -> int:
    """Bytes that the forward pass of a micro-batch keeps for the backward pass.

    `model` is one with this round's parameters learning; its weights are not looked at, and may be on the meta device.
    With gradient checkpointing a layer keeps its input alone, and one layer at a time has all of its own back.
    """
    rows, length, answers = micro_batch
    autocast = layout.held_in_fp32(dtype)
    # What is in the memo counts as copied: of the weights nothing is.
    without = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    model = copy.deepcopy(model, without).train()
    # The library's own product of experts is told of no shapes but bf16's; the one it falls back on, which keeps the
    # same tensors, is.
    grouped = patch("transformers.integrations.moe._can_use_grouped_mm", return_value=False, create=True)
    with FakeTensorMode(allow_non_fake_inputs=True), grouped:
        pretend(model, dtype, torch.float32 if autocast else dtype)
        objective = LanguageModel(model, autocast=autocast)
        kept = Kept(model)
        batch = Batch(
            input_ids=torch.zeros(rows, length, dtype=torch.long),
            positions=torch.arange(answers),
            targets=torch.zeros(answers, dtype=torch.long),
            total=answers,
            examples=[],
        )
        with torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda tensor: tensor):
            objective(batch)
    by_layer = kept.by_layer()
    if not layout.gradient_checkpointing:
        return sum(by_layer.values())
    return by_layer.pop(None, 0) + kept.inputs(by_layer) + max(by_layer.values(), default=0)


def pretend(model: PreTrainedModel, frozen: torch.dtype, learning: torch.dtype) -> None:
    """Give a model on the meta device weights that pretend to be in main memory: frozen ones, and those that learn."""
    fresh: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                dtype = learning if parameter.requires_grad else frozen
                weights = torch.empty(parameter.shape, dtype=dtype)
                module._parameters[name] = fresh.setdefault(parameter, nn.Parameter(weights, parameter.requires_grad))
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else torch.empty(buffer.shape, dtype=buffer.dtype)


class Kept:
    """What autograd saves, by the layer that was at work; a storage counts once, and what the model holds does not."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.layer: int | None = None
        self.storages: dict[int, tuple[int | None, torch.UntypedStorage]] = {}
        self.handed: dict[int, tuple[int | None, torch.UntypedStorage]] = {}
        self.weights = {held.untyped_storage()._cdata for held in (*model.parameters(), *model.buffers())}
        for number, layer in enumerate(decoder_layers(model).values()):
            layer.register_forward_pre_hook(
                lambda _, args, kwargs, n=number: self._enter(n, [*args, *kwargs.values()]), with_kwargs=True
            )
            layer.register_forward_hook(lambda *_: self._enter(None, []))

    def _enter(self, layer: int | None, inputs: Sequence[Any]) -> None:
        self.layer = layer
        for tensor in inputs:
            if isinstance(tensor, Tensor):
                self.handed.setdefault(tensor.untyped_storage()._cdata, (layer, tensor.untyped_storage()))

    def inputs(self, layers: Container[int | None]) -> int:
        """Bytes of what these layers were given to work on, in whatever dtype that was."""
        return sum(storage.nbytes() for layer, storage in self.handed.values() if layer in layers)

    def keep(self, tensor: Tensor) -> Tensor:
        """A hook: take note of a tensor that is saved."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.weights:
            self.storages.setdefault(storage._cdata, (self.layer, storage))
        return tensor

    def by_layer(self) -> dict[int | None, int]:
        """Bytes, by layer; None is what lies outside the layers."""
        found: dict[int | None, int] = {}
        for layer, storage in self.storages.values():
            found[layer] = found.get(layer, 0) + storage.nbytes()
        return found
