"""What a strategy is, and what it is handed: the only words the strategies and the runner have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Example = Any
"""A training example. A strategy moves examples about; it never looks inside one."""


class Task(Protocol):
    """A task as far as a strategy knows it."""

    @property
    def name(self) -> str: ...

    @property
    def epochs(self) -> int: ...

    @property
    def train(self) -> Sequence[Example]: ...


@dataclass(frozen=True)
class Round:
    """Round t of a run: `tasks` are tasks 1..t, of which the last is learned now; `instructions` is LIMA's place."""

    seed: int
    tasks: Sequence[Task]
    instructions: Sequence[Example]

    @property
    def number(self) -> int:
        """t, counted from 1."""
        return len(self.tasks)

    @property
    def task(self) -> Task:
        """The task this round learns."""
        return self.tasks[-1]

    @property
    def past(self) -> Sequence[Task]:
        """The tasks of the rounds before, oldest first."""
        return self.tasks[:-1]


@dataclass(frozen=True)
class Phase:
    """A stretch of training inside a round: these examples, this often, shuffled anew each epoch."""

    name: str
    examples: Sequence[Example]
    epochs: int


Gradients = dict[str, Tensor]
"""Gradients by parameter name; where parameters are spread over ranks, this rank's part of each."""


class Learner(Protocol):
    """What the runner lends a strategy between backward and step; only this round's trainable parameters are in it."""

    def backward(self, examples: Sequence[Example]) -> float:
        """Add the gradient of these examples' loss (mean over their answer tokens); give the loss."""
        ...

    def take_gradients(self) -> Gradients:
        """Take the gradients away: they are the caller's, and the next backward begins from nothing."""
        ...

    def put_gradients(self, gradients: Gradients) -> None:
        """Put gradients in the place of what is there: the optimizer's step follows them."""
        ...

    def sum_over_ranks(self, table: Tensor) -> Tensor:
        """The sum of every rank's table (a small one); on a single device the table itself."""
        ...


def shape_of(parameter: nn.Parameter) -> torch.Size:
    """A parameter's shape, also where its values are spread over ranks (DeepSpeed then keeps the shape beside it)."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


LoadModel = Callable[[Path | None], PreTrainedModel]
"""Loads a model from a folder in Hugging Face layout, or (None) the untouched one the run begins with."""


class Strategy(Protocol):
    """How a model learns one task after another. `SeqFT` is the plain case; the others differ from it in a hook or two.

    In each round the runner calls `begin_round`, then for every batch of every phase `adjust_gradients` between
    backward and step, then `end_round`. Whatever a strategy must still know in the next round it saves beside the
    checkpoint, so that a resumed run goes on as if nothing had happened.
    """

    @property
    def name(self) -> str:
        """The method's name in paths and tables."""
        ...

    @property
    def reads_gradients(self) -> str:
        """What it reads between backward and step: `nothing`, `parts` (whatever of them this rank has), or `whole`."""
        ...

    @property
    def uses_instructions(self) -> bool:
        """Whether it learns from the general instruction set."""
        ...

    @property
    def changes_architecture(self) -> bool:
        """Whether it trains modules of its own instead of the model's."""
        ...

    def prepare(self, load: LoadModel, checkpoint: Path | None) -> PreTrainedModel:
        """The model to train: as the run begins with it, or as the round before left it in `checkpoint`."""
        ...

    def begin_round(self, round: Round, model: PreTrainedModel) -> None:
        """Decide which parameters learn in this round (their `requires_grad`)."""
        ...

    def phases(self, round: Round) -> list[Phase]:
        """What this round learns from, in order."""
        ...

    def extra_bytes(self, round: Round, trainable: int) -> int:
        """Bytes it keeps on the device besides weights, gradients and optimizer, with so many parameters learning."""
        ...

    def adjust_gradients(self, round: Round, learner: Learner) -> dict[str, Any]:
        """Change the gradients before the optimizer's step; what is returned joins the step's line in train.jsonl."""
        ...

    def end_round(self, round: Round) -> dict[str, Any]:
        """After the round's last step; what is returned joins the round's record."""
        ...

    def save(self, folder: Path) -> None:
        """Write what the next round must know into the checkpoint's folder."""
        ...

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote."""
        ...
