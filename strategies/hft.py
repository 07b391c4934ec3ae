"""HFT, Half Fine-Tuning (arXiv 2404.18466): every round a fresh random half of the parameters learns.

`select` is the method: which modules are frozen in a round. `HalfFineTuning` wraps it round any strategy, which does
not know; `HalfFineTuningCallback` brings it to anybody's `transformers.Trainer` (`in_trainer` says how).

It selects modules, never single tensors: a bias goes with its weight, the norm of a query or key with the matrix that
makes that query or key, and an embedding tied to the head counts once.
"""

import math
import re
from collections.abc import Collection, Iterable, Sequence
from importlib import import_module
from itertools import combinations
from random import Random
from typing import Any, TypeVar

from torch import nn

from .base import Round, Strategy, Unsuitable
from .layers import Block, Layer, decoder_layers, layers, module_of
from .selection import Selection

T = TypeVar("T")


def select(model: nn.Module, round: int, seed: int, selection: Selection) -> list[str]:
    """The names of the modules frozen in this round, in the model's order (Algorithm 1).

    Drawn from `(seed, round)` alone, so that a resumed run draws the same halves. Where the experts of a mixture hold
    their matrices side by side in one module, a matrix of all experts is named by its parameter
    (`…mlp.experts.down_proj`). Raises Unsuitable, a ValueError, for a model whose matrices it cannot tell apart.
    """
    stack = layers(model)
    round = round if selection.redraw else 1
    rng = Random(f"hft/{seed}/{round}")
    if selection.level == "category":
        frozen = _category(stack, selection, rng)
    elif selection.level == "model":
        # Drawn by number, not by size: half of the parameters on average over the rounds.
        matrices = [module.name for layer in stack for module in layer.matrices]
        norms = [module.name for layer in stack for module in layer.norms]
        part = 0.5 if selection.share is None else 1 - selection.share
        frozen = {*_draw(rng, matrices, len(matrices) * part), *_draw(rng, norms, len(norms) * part)}
    else:
        # The seed alone says which layers come first, so that the next round takes the others.
        first = (Random(f"hft/{seed}").randrange(2) + round) % 2
        frozen = {module.name for layer in stack[first::2] for module in (*layer.matrices, *layer.norms)}
    owners = dict.fromkeys(module_of(name) for name, _ in model.named_parameters())
    if selection.embeddings == "freeze":
        inside = tuple(f"{path}." for path in decoder_layers(model))
        frozen.update(name for name in owners if not name.startswith(inside))
    return [name for name in owners if name in frozen]


def _category(stack: Sequence[Layer], selection: Selection, rng: Random) -> set[str]:
    """The frozen modules of each kind, drawn layer by layer: what does not learn of as many as are to learn."""
    frozen: set[str] = set()
    attention, mlp, norm = selection.counts
    for blocks, trained, of in (
        ([layer.attention for layer in stack], attention, 4),
        ([mlp for layer in stack for mlp in layer.mlps], mlp, 3),
        ([layer.norms for layer in stack], norm, 2),
    ):
        for alike in _alike(blocks):
            # An MLP of two matrices (no gate), or a layer of four norms, learns in the same proportion.
            mean = trained * (sum(module.matrices for module in alike[0]) / of)
            free = [_free(block, selection.frozen) for block in alike]
            for block, open, count in zip(alike, free, _counts(rng, mean, free), strict=True):
                learning = _draw_matrices(rng, open, count)
                frozen.update(module.name for module in block if module not in learning)
    return frozen


def _free(block: Block, frozen: Collection[str]) -> Block:
    """The modules of a block that hold none of these kinds. Raises Unsuitable where one holds others, too."""
    for module in block:
        if 0 < sum(kind in frozen for kind in module.kinds) < len(module.kinds):
            raise Unsuitable(
                f"selection.frozen={list(frozen)}: {module.name} is {', '.join(module.kinds)} in one matrix, which is "
                "frozen as a whole or not at all"
            )
    return [module for module in block if not module.kinds or module.kinds[0] not in frozen]


def _alike(blocks: Iterable[Block]) -> list[list[Block]]:
    """The blocks of all layers, like with like: where layers differ, or hold several MLPs, half of the layers is half
    of the parameters only among blocks of one size."""
    groups: dict[tuple[tuple[int, int], ...], list[Block]] = {}
    for block in blocks:
        groups.setdefault(tuple((module.size, module.matrices) for module in block), []).append(block)
    return list(groups.values())


def _counts(rng: Random, mean: float, blocks: Sequence[Block]) -> list[int]:
    """How many matrices learn in each of these like blocks: `mean` on average. These are the nearest numbers to it that
    a block can give, the larger in randomly drawn blocks: 1 and 2 for a mean of 1.5; 1 and 3 for a mean of 2 where q, k
    and v are fused and the output is apart."""
    possible = _choices(blocks[0])
    low, high = max(n for n in possible if n <= mean), min(n for n in possible if n >= mean)
    part = (mean - low) / (high - low) if high > low else 0
    more = set(_draw(rng, range(len(blocks)), part * len(blocks)))
    return [high if index in more else low for index in range(len(blocks))]


def _choices(block: Block) -> dict[int, list[Block]]:
    """The ways to choose some of the block's modules, by the number of matrices that are chosen."""
    found: dict[int, list[Block]] = {}
    for size in range(len(block) + 1):
        for chosen in combinations(block, size):
            found.setdefault(sum(module.matrices for module in chosen), []).append(list(chosen))
    return found


def _draw_matrices(rng: Random, block: Block, count: int) -> Block:
    """Modules of `count` matrices; equally many of each size where that comes out even, which under grouped-query
    attention (k and v smaller than q and o) is what keeps the half a half of the parameters."""
    if any(module.matrices > 1 for module in block):
        return rng.choice(_choices(block)[count])
    sizes: dict[int, Block] = {}
    for module in block:
        sizes.setdefault(module.size, []).append(module)
    parts = [count * len(alike) / len(block) for alike in sizes.values()]
    if any(part != int(part) for part in parts):
        return _draw(rng, block, count)
    return [module for alike, part in zip(sizes.values(), parts, strict=True) for module in _draw(rng, alike, part)]


def _draw(rng: Random, population: Sequence[T], count: float) -> list[T]:
    """A sample of `count`; a fractional count is rounded up as often as its fraction says (an odd number of layers)."""
    whole = math.floor(count)
    return rng.sample(population, whole + (rng.random() < count - whole))


def parameters_of(model: nn.Module, modules: Iterable[str]) -> set[str]:
    """The names of these modules' parameters, and with a q or k matrix those of the norm that follows it."""
    meant = set(modules)
    found: set[str] = set()
    for name, _ in model.named_parameters():
        module = module_of(name)
        # A frozen query whose norm went on learning would not be frozen: its scale would still move.
        maker = re.sub(r"\.([qk])_norm$", r".\1_proj", module)
        if module in meant or maker in meant:
            found.add(name)
    return found


def freeze(model: nn.Module, modules: Iterable[str]) -> None:
    """Stop the named modules from learning."""
    for name in parameters_of(model, modules):
        model.get_parameter(name).requires_grad_(False)


class Incompatible(ValueError):
    """A strategy that HFT cannot be combined with; its text says why."""


class HalfFineTuning:
    """Any strategy, with half of the parameters frozen each round. Everything else is the strategy's own."""

    def __init__(self, strategy: Strategy, selection: Selection) -> None:
        """Raise Incompatible for a strategy that trains nothing, or modules that are not the model's own."""
        if not strategy.trains:
            raise Incompatible(
                f"hft=true cannot be combined with strategy={strategy.name}: it trains nothing, whole or by halves; "
                "set hft=false"
            )
        if strategy.changes_architecture:
            raise Incompatible(
                f"hft=true cannot be combined with strategy={strategy.name}: it changes the architecture (the "
                "model stays frozen, and modules of its own are trained), so there is no half of the model to choose; "
                "set hft=false"
            )
        self.strategy = strategy
        self.selection = selection
        self.name = f"{strategy.name}+hft{selection.suffix}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.strategy, name)

    def trainable(self, round: Round, step: int, model: nn.Module) -> Collection[str] | None:
        """What the strategy lets learn, less this round's frozen half."""
        names = self.strategy.trainable(round, step, model)
        if names is None:
            return None
        frozen = parameters_of(model, select(model, round.number, round.seed, self.selection))
        return [name for name in names if name not in frozen]


def __getattr__(name: str) -> Any:
    """The callback is looked up when first used: `transformers.Trainer` brings much along that a run does not need."""
    if name != "HalfFineTuningCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(".in_trainer", __package__).HalfFineTuningCallback
