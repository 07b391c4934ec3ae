"""DER++: dark experience replay (Buzzega et al., NeurIPS 2020, arXiv 2004.07211), for the answers of a language model.

A few examples of each finished task are kept together with what the model predicted at their answers then. Every later
step also learns from two draws of them: α · ‖z − z_kept‖² on the first keeps to those predictions, β · L on the second
to the answers themselves (equation 6).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .base import Batch, Bytes, Example, Held, Learner, Model, Round, Task
from .seqft import SeqFT
from .settings import COUNT, NOT_NEGATIVE

FILE, PARTS = "der.safetensors", ("logits", "tokens")


@dataclass(frozen=True, eq=False)
class Remembered(Example):
    """A kept example, and what was predicted at its N answer tokens: the k largest logits, and whose they are
    (both N × k)."""

    logits: Tensor
    tokens: Tensor


def distance(logits: Tensor, examples: Sequence[Example]) -> Tensor:
    """At each of N answer positions, the mean squared difference of the logits (N × vocabulary) from the k that these
    examples are remembered with."""
    kept = [(example.logits, example.tokens) for example in examples if isinstance(example, Remembered)]
    if not kept:  # a rank's empty micro-batch
        return logits.sum(dim=-1)
    old, tokens = (torch.cat(parts).to(logits.device) for parts in zip(*kept, strict=True))
    return (logits.gather(1, tokens.long()).to(old.dtype) - old).square().mean(dim=-1)


def top_of(logits: Iterable[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row's logits (each N × vocabulary) and their places, the rows of all in one tensor."""
    largest = [rows.topk(min(k, rows.shape[-1]), dim=-1) for rows in logits]
    return torch.cat([top.values.float().cpu() for top in largest]), torch.cat(
        [top.indices.int().cpu() for top in largest]
    )


@dataclass
class DER(SeqFT):
    """Sequential fine-tuning that goes on predicting for kept examples what it once predicted, and their answers.

    `memory_size` examples are kept of each task, with the `top_k` largest logits at each answer token (the paper keeps
    all: a number as large as the vocabulary). Each step draws `memory_batch` of all that are kept, once for either
    term: `alpha` is the strength of the distance to the kept logits, `beta` that of the answers' cross-entropy.
    """

    alpha: float = 0.5  # the authors' best_args.py: 0.1 to 1, by benchmark and memory
    beta: float = 0.5  # the same: 0.5 or 1
    memory_size: int = 64  # ours: as many as GEM keeps; of eight tasks about the middle of the paper's 200, 500, 5120
    memory_batch: int = 16  # the authors' scripts: as many as the task's own batch, as conf/strategy/der.yaml has it
    top_k: int = 64  # ours: 0.2% of Llama-2's vocabulary

    name = "der"
    uses = frozenset({"gradients"})
    terms = ("distillation", "replay")

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        for key in ("alpha", "beta"):
            NOT_NEGATIVE.check(f"strategy.{key}", getattr(self, key))
        for key in ("memory_size", "memory_batch", "top_k"):
            COUNT.check(f"strategy.{key}", getattr(self, key))
        strengths = {"distillation": self.alpha, "replay": self.beta}
        self.strengths = {term: strength for term, strength in strengths.items() if strength}
        self.kept: dict[str, tuple[Tensor, Tensor]] = {}
        self.recalling: str | None = None

    def begin_round(self, round: Round, learner: Learner) -> None:
        self.steps = 0
        past = round.past if self.strengths else []
        self.memory = [example for task in past for example in self.remembered(round.seed, task)]

    def remembered(self, seed: int, task: Task) -> list[Remembered]:
        """A past task's kept examples."""
        drawn = self.drawn(seed, task)
        lengths = [len(example.answer) for example in drawn]
        logits, tokens = (part.split(lengths) for part in self.kept[task.name])
        return [Remembered(e.prompt, e.answer, *old) for e, *old in zip(drawn, logits, tokens, strict=True)]

    def drawn(self, seed: int, task: Task) -> list[Example]:
        """The examples that are kept of a task."""
        draw = Random(f"der/{seed}/{task.name}")
        return draw.sample(list(task.train), min(self.memory_size, len(task.train)))

    def loss(self, model: Model, batch: Batch) -> Tensor:
        if self.recalling is None:
            return model.mean(batch)
        if self.recalling == "replay":
            return self.beta * model.mean(batch)
        return self.alpha * batch.mean(distance(model.logits(batch), batch.examples))

    def adjust_gradients(self, round: Round, learner: Learner) -> dict[str, Any]:
        """Add the gradients of both terms to the loss's."""
        if not self.memory:
            return {}
        gradients, terms = learner.take_gradients(), {}
        for term in self.strengths:
            draw = Random(f"der/{round.seed}/{round.number}/{self.steps}/{term}")
            drawn = draw.sample(self.memory, min(self.memory_batch, len(self.memory)))
            self.recalling = term
            terms[term] = learner.backward(drawn)
            for name, part in learner.take_gradients().items():
                gradients[name].add_(part)
        self.recalling = None
        self.steps += 1
        learner.put_gradients(gradients)
        return terms

    def hold(self) -> Held:
        return Held({"steps": self.steps})

    def resume(self, held: Held) -> None:
        self.steps = held.values["steps"]

    def end_round(self, round: Round, learner: Learner) -> dict[str, Any]:
        """Remember the task: some of its examples, and what is predicted there now."""
        self.memory = []
        if not self.strengths or round.last:
            return {}
        drawn = self.drawn(round.seed, round.task)
        self.kept[round.task.name] = top_of((learner.logits(example) for example in drawn), self.top_k)
        return {"memory": len(drawn)}

    def extra_bytes(self, round: Round, trainable: int) -> Bytes:
        """A second gradient while a term's own is made; and what is kept of all tasks."""
        if not self.strengths:
            return Bytes()
        tokens = sum(len(example.answer) for task in round.tasks for example in self.drawn(round.seed, task))
        return Bytes(device=4 * trainable if round.past else 0, host=(4 + 4) * self.top_k * tokens)

    def save(self, folder: Path) -> None:
        if self.kept:
            parts = {
                f"{task}/{name}": p for task, kept in self.kept.items() for name, p in zip(PARTS, kept, strict=True)
            }
            save_file(parts, folder / FILE)

    def restore(self, folder: Path) -> None:
        if (folder / FILE).exists():
            found = load_file(folder / FILE)
            tasks = {key.rpartition("/")[0] for key in found}
            self.kept = {task: (found[f"{task}/logits"], found[f"{task}/tokens"]) for task in tasks}
