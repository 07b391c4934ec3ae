"""HFT, Half Fine-Tuning (arXiv 2404.18466): every round a fresh random half of the parameters learns.

`select` is the method: which modules are frozen in a round. `HalfFineTuning` wraps it round any strategy, which does
not know; `HalfFineTuningCallback` brings it to anybody's `transformers.Trainer`.

It selects modules, never single tensors: a bias goes with its weight, the norm of a query or key with the matrix that
makes that query or key, and an embedding tied to the head counts once.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .base import Round, Strategy, shape_of
from .selection import Selection

T = TypeVar("T")

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Layer:
    """One transformer layer, by the names of its modules."""

    path: str
    attention: list[str]
    mlp: list[str]
    norms: list[str]


def layers(model: nn.Module) -> list[Layer]:
    """The transformer layers of a decoder with q, k, v, o and gate, up, down matrices (Llama, Qwen, Mistral …).

    Raises ValueError where the model is built otherwise, or has no layers.
    """
    found = []
    for path, module in model.named_modules():
        children = {name.rpartition(".")[2]: f"{path}.{name}" for name, _ in module.named_modules()}
        in_stack = path.rpartition(".")[2].isdigit()
        if in_stack and children.keys() >= {*ATTENTION, *MLP}:
            norms = [f"{path}.{name}" for name, _ in module.named_children() if "norm" in name]
            found.append(Layer(path, [children[n] for n in ATTENTION], [children[n] for n in MLP], norms))
    if not found:
        raise ValueError(
            f"HFT needs transformer layers with {', '.join((*ATTENTION, *MLP))}; {type(model).__name__} has none"
        )
    return found


def outside(model: nn.Module, stack: Sequence[Layer]) -> list[str]:
    """The modules outside the layers that hold parameters of their own (a head tied to the embedding holds none)."""
    owners = dict.fromkeys(name.rpartition(".")[0] for name, _ in model.named_parameters())
    return [name for name in owners if not any(name.startswith(layer.path + ".") for layer in stack)]


def select(model: nn.Module, round: int, seed: int, selection: Selection) -> list[str]:
    """The names of the modules frozen in this round, in the model's order (Algorithm 1).

    Drawn from `(seed, round)` alone, so that a resumed run draws the same halves. Raises ValueError for a model whose
    layers it cannot tell apart.
    """
    stack = layers(model)
    rng = Random(f"hft/{seed}/{round}")
    if selection.level == "category":
        frozen = _category(model, stack, selection, rng)
    elif selection.level == "model":
        matrices = [name for layer in stack for name in (*layer.attention, *layer.mlp)]
        norms = [name for layer in stack for name in layer.norms]
        frozen = {*_draw(rng, matrices, len(matrices) / 2), *_draw(rng, norms, len(norms) / 2)}
    else:
        first = (Random(f"hft/{seed}").randrange(2) + round) % 2
        frozen = {name for layer in stack[first::2] for name in (*layer.attention, *layer.mlp, *layer.norms)}
    if selection.embeddings == "freeze":
        frozen.update(outside(model, stack))
    return [name for name, _ in model.named_modules() if name in frozen]


def _category(model: nn.Module, stack: Sequence[Layer], selection: Selection, rng: Random) -> set[str]:
    frozen: set[str] = set()
    for modules, trained in (
        ([layer.attention for layer in stack], selection.attention),
        ([layer.mlp for layer in stack], selection.mlp),
        ([layer.norms for layer in stack], selection.norm * len(stack[0].norms) / 2),
    ):
        counts = _counts(rng, trained, len(stack))
        for names, count in zip(modules, counts, strict=True):
            frozen.update(set(names) - set(_draw_alike(rng, model, names, count)))
    return frozen


def _counts(rng: Random, mean: float, layers: int) -> list[int]:
    """How many modules learn in each layer: the whole numbers next to `mean`, the larger in randomly drawn layers."""
    low = math.floor(mean)
    more = set(_draw(rng, range(layers), (mean - low) * layers))
    return [low + (index in more) for index in range(layers)]


def _draw_alike(rng: Random, model: nn.Module, names: Sequence[str], count: int) -> list[str]:
    """`count` of the modules; equally many of each size where that comes out even, which under grouped-query attention
    (k and v smaller than q and o) is what keeps the half a half of the parameters."""
    sizes: dict[int, list[str]] = {}
    for name in names:
        sizes.setdefault(shape_of(model.get_parameter(f"{name}.weight")).numel(), []).append(name)
    shares = [count * len(group) / len(names) for group in sizes.values()]
    if any(share != int(share) for share in shares):
        return _draw(rng, names, count)
    return [name for group, share in zip(sizes.values(), shares, strict=True) for name in _draw(rng, group, share)]


def _draw(rng: Random, population: Sequence[T], count: float) -> list[T]:
    """A sample of `count`; a broken count is rounded up as often as its fraction says (an odd number of layers)."""
    whole = math.floor(count)
    return rng.sample(population, whole + (rng.random() < count - whole))


def parameters_of(model: nn.Module, modules: Iterable[str]) -> set[str]:
    """The names of these modules' parameters, and with a q or k matrix those of the norm that follows it."""
    names: set[str] = set()
    for module in modules:
        names.update(f"{module}.{name}" for name, _ in model.get_submodule(module).named_parameters())
        parent, _, leaf = module.rpartition(".")
        follower = leaf.replace("_proj", "_norm")
        if leaf in ("q_proj", "k_proj") and hasattr(model.get_submodule(parent), follower):
            norm = model.get_submodule(f"{parent}.{follower}")
            names.update(f"{parent}.{follower}.{name}" for name, _ in norm.named_parameters())
    return names


def freeze(model: nn.Module, modules: Iterable[str]) -> None:
    """Stop the named modules from learning."""
    for name in parameters_of(model, modules):
        model.get_parameter(name).requires_grad_(False)


class Incompatible(ValueError):
    """A strategy that HFT cannot be combined with; its text says why."""


class HalfFineTuning:
    """Any strategy, with half of the parameters frozen each round. Everything else is the strategy's own."""

    def __init__(self, strategy: Strategy, selection: Selection) -> None:
        """Raise Incompatible for a strategy whose trainable modules are not the model's own."""
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


class HalfFineTuningCallback(TrainerCallback):
    """HFT for anybody's `transformers.Trainer` or TRL trainer: one training is one round.

        Trainer(model, args, train_dataset=…, callbacks=[HalfFineTuningCallback(round=1)]).train()

    The half is frozen when the trainer is made, before it builds its optimizer, and set free when training ends. Raise
    `round` with each training to draw another half.
    """

    def __init__(self, round: int = 1, seed: int = 1, selection: Selection | None = None) -> None:
        self.round = round
        self.seed = seed
        self.selection = selection or Selection()
        self.frozen: list[str] = []
        self._learning: list[nn.Parameter] = []

    def on_init_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Freeze this round's half. Raises ValueError if the trainer hands over no model."""
        if model is None:
            raise ValueError("HalfFineTuningCallback was handed no model; give Trainer its model when it is made")
        self._learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.frozen = select(model, self.round, self.seed, self.selection)
        freeze(model, self.frozen)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let everything learn again that learned before."""
        for parameter in self._learning:
            parameter.requires_grad_(True)
