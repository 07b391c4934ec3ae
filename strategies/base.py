"""What a strategy is, and what it is lent: the only words the strategies and the runner have in common.

A round goes like this (`trace_cl/rounds.py`):

    prepare(round)                       the modules it learns with
    trainable(round, 0)                  which parameters learn
    begin_round(round, learner)
    for each phase, epoch and batch:     of exactly `global_batch` examples
        loss, backward                   micro-batch by micro-batch
        adjust_gradients(round, learner)
        step; after_step(round, learner)
        trainable(round, step)           what learns may change
    end_round(round, learner)            weights and gradients are still at hand
    answer, for every task seen so far
"""

import math
from array import array
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Example:
    """An example as token ids: the prompt, and the answer that ends with end-of-sequence."""

    prompt: list[int]
    answer: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


class Task(Protocol):
    """A task as far as a strategy knows it."""

    @property
    def name(self) -> str: ...

    @property
    def epochs(self) -> int: ...

    @property
    def answer_tokens(self) -> int: ...

    @property
    def train(self) -> Sequence[Example]: ...


@dataclass(frozen=True)
class Round:
    """Round t of a run: `tasks` are tasks 1..t, of which the last is learned now; `instructions` is LIMA's place.

    `last` says that no round follows it; an optimizer step learns from `global_batch` examples.
    """

    seed: int
    tasks: Sequence[Task]
    instructions: Sequence[Example]
    last: bool = False
    global_batch: int = 1

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

    def steps(self, global_batch: int) -> int:
        """Its optimizer steps: an epoch's last batch may be smaller."""
        return self.epochs * math.ceil(len(self.examples) / global_batch)


@dataclass(frozen=True)
class Batch:
    """A micro-batch: as much of a step's examples as goes through the model at once.

    `input_ids` is B × L, padded on the right, a row for each of the `examples`. `positions` (N) are the places in it,
    counted through all rows, that an answer token follows; `targets` (N) are these answer tokens. The step has `total`
    answer tokens, in all its micro-batches on all ranks. `notes` are the loss's terms, as far as it told of them.
    """

    input_ids: Tensor
    positions: Tensor
    targets: Tensor
    total: int
    examples: Sequence[Example]
    notes: dict[str, Tensor] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """This micro-batch's part of the step's answer tokens; the parts of a step add up to one."""
        return len(self.targets) / self.total

    @cached_property
    def rows(self) -> list[tuple[int, int]]:
        """Each example's identity, and how many ids of its row no other row was padded with."""
        ids = [array("q", [*example.prompt, *example.answer]) for example in self.examples]
        return [(crc32(row.tobytes()), len(row) - 1) for row in ids]

    def mean(self, values: Tensor) -> Tensor:
        """What these values (N, one an answer token) add to the step's mean over its answer tokens."""
        return values.sum() / self.total

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """What the answer tokens, predicted by logits (N × vocabulary), add to the step's mean cross-entropy."""
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return cross_entropy(precise, self.targets, reduction="sum") / self.total

    def note(self, name: str, term: Tensor) -> None:
        """Tell of a term of the loss, a scalar: what the batch adds to the step's. The sum over the step joins its line
        in train.jsonl. Each of a step's micro-batches is to note the same names."""
        self.notes[name] = term.detach()


class Observer(nn.Module):
    """A module that has to know the batch that the model goes through next."""

    def look_at(self, batch: Batch) -> None:
        """The batch; a rank's empty one has no examples."""
        raise NotImplementedError


class Model(Protocol):
    """The model as a loss sees it."""

    def logits(self, batch: Batch) -> Tensor:
        """N × vocabulary: what the model predicts at the answer positions, as its own forward pass gives it."""
        ...

    def mean(self, batch: Batch) -> Tensor:
        """What the batch adds to the step's mean cross-entropy over its answer tokens."""
        ...


Parts = dict[str, Tensor]
"""Tensors by parameter name: of each parameter the part this rank holds. On one device, and wherever nothing is spread,
that is all of it, in its own shape; else a slice of it, flat, and empty where this rank holds none."""


class Answerer(Protocol):
    """What answers prompts."""

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int | None = None) -> list[str]:
        """Greedy answers to prompts of token ids, whole texts of at most `tokens` tokens. By default what the task's
        score needs: while answers are scored, they end where nothing that follows can change it."""
        ...

    def sample(self, prompts: Sequence[Sequence[int]], tokens: int, top_k: int, seed: int) -> list[list[int]]:
        """What follows each prompt, as token ids, at most `tokens` of them: up to the end token, which is among them,
        each drawn from the `top_k` most likely (1: the likeliest). A prompt's draws depend on `seed` and its place in
        the list alone. All ranks ask for the same, and all have all of it."""
        ...

    def encode(self, text: str) -> list[int]:
        """A text's token ids, without a start or end token."""
        ...


class Adaptable(Answerer, Protocol):
    """What answers prompts while answers are scored. A strategy that has it adapted `uses` a `snapshot`: the model must
    lie whole on every device."""

    def adapted(self, examples: Sequence[Example], steps: int, rate: float, pull: float) -> Answerer:
        """One that answers with the model adapted to these examples: so many steps on all its weights, at a rate of
        `rate`, lower their mean loss plus `pull` times the squared distance from where the weights began. After each
        answer they are back there."""
        ...


class Learner(Answerer, Protocol):
    """What the runner lends a strategy while a round is trained: the same words on one device and on many.

    What it speaks of are this round's trainable parameters. `noted` are the terms of its loss that the strategy told of
    in the last backward (`Batch.note`), the step's.
    """

    noted: dict[str, float]

    def backward(self, examples: Sequence[Example], weight: float = 1.0) -> float:
        """Add the gradient of the strategy's loss (a mean over these examples' answer tokens), multiplied by `weight`;
        give the loss."""
        ...

    def inner_products(self, batches: Sequence[Sequence[Example]]) -> Tensor:
        """(k+1) × (k+1), float64, over all ranks: the inner products of what `backward` would add of each of k batches
        and, last, of the gradient at hand, which stays. No other gradient is ever held as a whole."""
        ...

    def take_gradients(self) -> Parts:
        """Take the gradients away: they are the caller's, and the next backward begins from nothing."""
        ...

    def put_gradients(self, gradients: Parts) -> None:
        """Put gradients in the place of what is there: the optimizer's step follows them."""
        ...

    def sum_over_shards(self, table: Tensor) -> Tensor:
        """The sum of what each rank computed from its own parts (a small tensor); where every rank holds whole
        parameters, the table itself."""
        ...

    def weights(self) -> Parts:
        """The weights as the optimizer holds them (fp32), part by part as the gradients; not to be changed."""
        ...

    def set_weights(self, weights: Parts) -> None:
        """Put these weights in the place of what is there."""
        ...

    def gather(self, parts: Parts) -> dict[str, Tensor]:
        """Whole tensors in the parameters' shapes, in main memory, on the first rank; empty on the others."""
        ...

    def scatter(self, whole: dict[str, Tensor]) -> Parts:
        """What `gather` gave, dealt out again, whatever the number of ranks now, for those parameters that learn in
        this round. Parameters that `whole` does not name are not in the answer."""
        ...

    def logits(self, example: Example) -> Tensor:
        """What the model now predicts at the example's answer positions (tokens × vocabulary), without dropout and
        without gradient. Every rank goes through all of the example, in step."""
        ...

    def snapshot(self) -> Model:
        """A frozen copy of the model as it is now."""
        ...

    def step(self) -> float:
        """Clip, step, forget the gradients; give the gradients' norm before clipping."""
        ...


class Bytes(NamedTuple):
    """Memory on the device and in main memory."""

    device: int = 0
    host: int = 0


def shape_of(parameter: nn.Parameter) -> torch.Size:
    """A parameter's shape, also where its values are spread over ranks (DeepSpeed then keeps the shape beside it), or
    packed (bitsandbytes)."""
    packed = getattr(parameter, "quant_state", None)
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape) if packed is None else packed.shape
    return shape


def bytes_of(parameter: nn.Parameter, dtype: torch.dtype) -> int:
    """What a parameter takes in a model of this dtype; one that is to be held otherwise tells itself."""
    told: int | None = getattr(parameter, "held_bytes", None)
    return shape_of(parameter).numel() * dtype.itemsize if told is None else told


@dataclass(frozen=True)
class Held:
    """What a strategy knows in the middle of a round: values that JSON can hold, and tensors, part by part."""

    values: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Parts] = field(default_factory=dict)


class Unsuitable(ValueError):
    """A model that a strategy cannot work with; its text, one sentence, says why."""


LoadModel = Callable[[Path | None], PreTrainedModel]
"""Loads a model from a folder in Hugging Face layout, or (None) the base model that the run begins with."""

Use = Literal[
    "gradients", "weights", "snapshot", "changing_parameters", "whole_parameters", "whole_weights", "past_keys"
]


class Strategy:
    """How a model learns one task after another. As it stands here it is SeqFT; others differ from it in a hook or two.

    A strategy may be a dataclass or have an `__init__` of its own: its arguments are its settings. What it must still
    know in the next round it saves beside the checkpoint, so that a resumed run goes on as if nothing had happened.
    """

    name: str = "seqft"
    """The method's name in paths and tables."""

    uses: frozenset[Use] = frozenset()
    """What it asks of the learner besides training: an engine that cannot give it says so before anything is loaded.
    `changing_parameters`: what learns changes within a round. `whole_parameters`: it, or a library it stands on, looks
    at parameters and gradients behind the learner's back, which takes a device that holds them whole. `whole_weights`:
    it holds weights in a form that cannot be dealt out. `past_keys`: it puts keys and values before those of the text,
    which layers that are computed once more have not."""

    uses_instructions: bool = False
    """Whether it learns from the general instruction set, so that the benchmark must have one."""

    terms: tuple[str, ...] = ()
    """What it does beside the task's loss: names of what it notes in `loss`, or returns from `adjust_gradients` (a
    number, or whether something was done). One that is zero throughout a round with past tasks, or a hundred times the
    loss, is told of."""

    needs_task_id: bool = False
    """Whether it has to be told which task a prompt belongs to when it answers."""

    changes_architecture: bool = False
    """Whether it trains modules of its own instead of the model's."""

    begins_anew: bool = False
    """Whether every round begins with the model as the run began with it, and not as the round before left it."""

    leaves_model: bool = False
    """Whether the model stays as the run began with it, and reads a text that nothing of the strategy's stands in as it
    did then: what is measured of it on such texts is measured once."""

    trains: bool = True
    """Whether it ever learns anything."""

    def build(self, load: LoadModel, checkpoint: Path | None, rounds: Sequence[Round]) -> PreTrainedModel:
        """The model with whatever the strategy adds to it for all rounds: as the run begins with it, or as the round
        before left it in `checkpoint`. For planning `load` gives a model without values, on the meta device."""
        return load(checkpoint)

    def save_model(self, model: PreTrainedModel, folder: Path, weights: dict[str, Tensor] | None) -> None:
        """Write what `build` reads. `weights` are the whole weights where the model itself holds only a part."""
        model.save_pretrained(folder, state_dict=weights)

    def prepare(self, round: Round, model: PreTrainedModel) -> None:
        """Give the model the modules that it learns with in this round, in the place of another round's.

        Planning asks it too, for any round, with a model on the meta device.
        """

    def trainable(self, round: Round, step: int, model: nn.Module) -> Collection[str] | None:
        """The names of the parameters that learn from this step on (0: the round's first, which must say); None: as
        before.

        Depends on nothing but its arguments and the settings, because planning asks it too.
        """
        return [name for name, _ in model.named_parameters()] if step == 0 else None

    def phases(self, round: Round) -> list[Phase]:
        """What this round learns from, in order; with none the round trains nothing, and is only scored."""
        return [Phase(round.task.name, round.task.train, round.task.epochs)]

    def begin_round(self, round: Round, learner: Learner) -> None:
        """Before the round's first step; once more, with the weights as they were then, where a killed run goes on
        inside the round."""

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """What the batch adds to the step's loss. A penalty is to be multiplied by `batch.share`, so that it counts
        once however the step is cut; one on the weights belongs in `adjust_gradients`."""
        return model.mean(batch)

    def adjust_gradients(self, round: Round, learner: Learner) -> dict[str, Any]:
        """Change the gradients before the optimizer's step; what is returned joins the step's line in train.jsonl."""
        return {}

    def after_step(self, round: Round, learner: Learner) -> None:
        """After the optimizer's step, when the gradients are gone: make true again what is to hold of the weights."""

    def end_round(self, round: Round, learner: Learner) -> dict[str, Any]:
        """After the round's last step; what is returned joins the round's record."""
        return {}

    def positions(self, round: Round) -> int:
        """How many of the model's positions are taken before each text of the round's task, learned or answered."""
        return 0

    def answer(self, task: Task, prompts: Sequence[list[int]], learner: Adaptable) -> list[str]:
        """Answers to a task's prompts, in their order."""
        return learner.generate(prompts)

    def unchanged(self, round: Round, task: Task) -> bool:
        """Whether after this round nothing can have changed of its answers to a past task: they are then those of the
        round before, and not asked for again."""
        return False

    def extra_bytes(self, round: Round, trainable: int) -> Bytes:
        """What it keeps besides weights, gradients and optimizer, where so many numbers learn on the device."""
        return Bytes()

    def streamed(self, round: Round) -> Sequence[Sequence[Example]]:
        """The longest batches of whose gradients a step of the round may ask for the `inner_products`, for the plan."""
        return []

    def hold(self) -> Held:
        """What it knows between two steps of a round that neither `begin_round` nor `restore` brings back."""
        return Held()

    def resume(self, held: Held) -> None:
        """Take up what `hold` gave, after `begin_round`."""

    def save(self, folder: Path) -> None:
        """Write what the next round must know into the checkpoint's folder: safetensors and JSON."""

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote."""
