"""The inner products of several batches' gradients, layer by layer: no gradient is ever there as a whole.

All batches go forward first, and of each layer its input alone is kept, in main memory. Then they come back together,
one layer after another: a layer is computed once more, its gradient on each of the batches is held while their inner
products are added to a table, and is let go. So much as one layer's gradients is all that there is of them at once, for
every kind of layer, and however the batches are cut.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from trace_cl.strategies.base import Batch, Parts, Unsuitable
from trace_cl.strategies.layers import decoder_layers
from trace_cl.training.loss import LanguageModel
from trace_cl.training.room import fitting

Part = Callable[[str, Tensor], Tensor]
"""This rank's part of a parameter's gradient, flat or in its shape, out of what it found of the whole by itself."""

Found = Sequence[Tensor | None]
"""Gradients of parameters, in their order; None where they had no part in what was computed."""


def inner_products(
    objective: LanguageModel,
    batches: Sequence[Sequence[Batch]],
    parameters: Mapping[str, nn.Parameter],
    at_hand: Parts,
    part: Part,
    keep: bool = False,
) -> Tensor:
    """(k+1) × (k+1), float64: of the loss's gradients on k batches, each cut into micro-batches, and of the gradient at
    hand, which comes last and of which a parameter may be missing; each rank's sum over its parts.

    With `keep` there is room for the activations of all batches at once, and no layer is computed twice. The loss goes
    through the model once. Raises Unsuitable for a model that does more between its layers than hand on what they give,
    and DoesNotFit.
    """
    layers = decoder_layers(objective.model)
    outside = _outside(parameters, layers)
    embeddings = {id(parameter) for parameter in objective.model.get_input_embeddings().parameters()}
    # A tied head is an embedding, too, and its gradient is whole only at the very end.
    unfinished = {name for name, parameter in outside.items() if id(parameter) in embeddings}
    table = Table(len(batches), at_hand, part)
    passes: list[list[Pass]] = [[] for _ in batches]
    checkpointed = [layer for layer in layers.values() if getattr(layer, "gradient_checkpointing", False)]

    def forward(row: int) -> Iterator[Found]:
        for batch in batches[row]:
            passes[row].append(Pass(objective, batch, list(layers.values()), keep and not checkpointed))
            yield passes[row][-1].head(list(outside.values()))

    with _computed_whole(checkpointed):
        for row in range(len(batches)):
            table.add(row, list(outside), forward(row))
        table.finish(unfinished)
        for path, layer in reversed(layers.items()):
            inside = {name: p for name, p in parameters.items() if name.startswith(f"{path}.")}
            for row, each in enumerate(passes):
                table.add(row, list(inside), (one.layer(layer, list(inside.values())) for one in each))
            table.finish(unfinished)
    for row, each in enumerate(passes):
        table.add(row, list(outside), (one.embedding(list(outside.values())) for one in each))
    table.finish()
    return table.products


def _outside(parameters: Mapping[str, nn.Parameter], layers: Iterable[str]) -> dict[str, nn.Parameter]:
    paths = tuple(f"{path}." for path in layers)
    return {name: parameter for name, parameter in parameters.items() if not name.startswith(paths)}


@contextmanager
def _computed_whole(checkpointed: Sequence[nn.Module]) -> Iterator[None]:
    """A layer that is computed once more anyway need not be computed a third time."""
    for layer in checkpointed:
        layer.gradient_checkpointing = False  # type: ignore[assignment]  # no module, as mypy takes it for
    try:
        yield
    finally:
        for layer in checkpointed:
            layer.gradient_checkpointing = True  # type: ignore[assignment]


class Table:
    """The inner products so far, and of the parameters that are not finished the batches' gradients, a row each."""

    def __init__(self, batches: int, at_hand: Parts, part: Part) -> None:
        self.batches, self.at_hand, self.part = batches, at_hand, part
        self.rows: Parts = {}
        self.products = torch.zeros(batches + 1, batches + 1, dtype=torch.float64)
        for gradient in at_hand.values():
            self.products[-1, -1] += float(gradient.flatten() @ gradient.flatten())

    def add(self, row: int, names: Sequence[str], micro_batches: Iterable[Found]) -> None:
        """Add to a batch's gradient what its micro-batches found, in fp32 or better."""
        whole: Parts = {}
        for found in micro_batches:
            for name, gradient in zip(names, found, strict=True):
                if gradient is not None:
                    precise = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
                    whole[name] = whole[name] + precise if name in whole else precise
        for name in list(whole):
            part = self.part(name, whole.pop(name)).flatten()
            if name not in self.rows:
                self.rows[name] = part.new_zeros(self.batches, len(part))
            self.rows[name][row] += part

    def finish(self, unfinished: Container[str] = ()) -> None:
        """Multiply out what is held of all other parameters, and let it go."""
        for name in [name for name in self.rows if name not in unfinished]:
            rows = self.rows.pop(name)
            self.products[:-1, :-1] += (rows @ rows.T).double().cpu()
            if name in self.at_hand:
                across = (rows @ self.at_hand[name].flatten()).double().cpu()
                self.products[:-1, -1] += across
                self.products[-1, :-1] += across


class Pass:
    """A micro-batch: gone forward, and on its way back through the model, the last layer first. With `keep` each layer
    is left as the forward pass left it, to be gone back through; else it is computed once more from its input."""

    def __init__(self, objective: LanguageModel, batch: Batch, layers: Sequence[nn.Module], keep: bool) -> None:
        self.model, self.batch, self.precision, self.keep = objective.model, batch, objective.precision, keep
        self.inputs: list[tuple[Tensor, Sequence[Any], dict[str, Any]]] = []
        self.outputs: list[Tensor] = []
        hooks = [layer.register_forward_pre_hook(self._enter, prepend=True, with_kwargs=True) for layer in layers]
        hooks += [layer.register_forward_hook(self._leave) for layer in layers]
        hooks.append(layers[-1].register_forward_hook(self._leave_last))
        try:
            with torch.enable_grad(), self._fitting():
                self.loss = objective(batch)
        finally:
            for hook in hooks:
                hook.remove()

    def _fitting(self) -> AbstractContextManager[None]:
        return fitting(self.batch, self.model)

    def _enter(self, layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        hidden, *others = inputs
        if not self.inputs:
            self.embedded = get_gradient_edge(hidden) if hidden.requires_grad else None
        elif hidden is not self.output:
            raise _refusal(self.model, "does more between its layers than hand on what they give")
        if any(isinstance(other, Tensor) and other.requires_grad for other in (*others, *named.values())):
            raise _refusal(self.model, "hands its layers more to learn through than the hidden states")
        torch.set_grad_enabled(self.keep)
        hidden = hidden.detach()
        self.inputs.append((hidden.requires_grad_() if self.keep else _put_by(hidden), others, named))
        return (hidden, *others), named

    def _leave(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        torch.set_grad_enabled(True)
        self.output = _hidden(output)
        if self.keep:
            self.outputs.append(self.output)

    def _leave_last(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        self.output = self.output.detach().requires_grad_()
        return (self.output, *output[1:]) if isinstance(output, tuple) else self.output

    def head(self, parameters: Sequence[nn.Parameter]) -> Found:
        """Back from the loss to what the last layer gave."""
        with self._fitting():
            self.gradient, *found = torch.autograd.grad(self.loss, [self.output, *parameters], allow_unused=True)
        del self.loss, self.output
        return found

    def layer(self, layer: nn.Module, parameters: Sequence[nn.Parameter]) -> Found:
        """Back through the layer that comes next."""
        hidden, others, named = self.inputs.pop()
        with self._fitting():
            if self.keep:
                output = self.outputs.pop()
            else:
                hidden = hidden.to(self.gradient.device, non_blocking=True).requires_grad_()
                with self.precision():
                    output = _hidden(layer(hidden, *others, **named))
            self.gradient, *found = torch.autograd.grad(output, [hidden, *parameters], self.gradient, allow_unused=True)
        return found

    def embedding(self, parameters: Sequence[nn.Parameter]) -> Found:
        """Back from what the first layer was given."""
        if self.embedded is None or not parameters:
            return [None] * len(parameters)
        return torch.autograd.grad([self.embedded], parameters, [self.gradient], allow_unused=True)


def _hidden(output: Any) -> Tensor:
    """The hidden states among what a layer gives."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def _put_by(hidden: Tensor) -> Tensor:
    """Where a GPU computes, a copy in main memory that it writes and reads by itself."""
    if not hidden.is_cuda:
        return hidden
    return torch.empty_like(hidden, device="cpu", pin_memory=True).copy_(hidden, non_blocking=True)


def _refusal(model: nn.Module, reason: str) -> Unsuitable:
    return Unsuitable(f"{type(model).__name__} {reason}: set strategy.memory_gradients=stored")
