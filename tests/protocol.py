"""Strategies of a few lines, each of which needs something of the protocol that no shipped one does."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from trace_cl.strategies import Phase, Round, SeqFT, Strategy
from trace_cl.strategies.base import Answerer, Learner, Task
from trace_cl.strategies.lfpt5 import LFPT5


class Merging(Strategy):
    """After each round the weights are the mean of those before it and those learned."""

    name = "merging"
    uses = frozenset({"weights"})

    def begin_round(self, round: Round, learner: Learner) -> None:
        self.before = learner.gather(learner.weights())

    def end_round(self, round: Round, learner: Learner) -> dict[str, Any]:
        before, after = learner.scatter(self.before), learner.weights()
        learner.set_weights({name: (before[name] + part) / 2 for name, part in after.items()})
        return {}


class LayerByLayer(Strategy):
    """One layer learns at a time, another with every step (as in LISA, arXiv 2403.17919)."""

    name = "layer_by_layer"
    uses = frozenset({"changing_parameters"})

    def trainable(self, round: Round, step: int, model: nn.Module) -> Collection[str] | None:
        return [name for name, _ in model.named_parameters() if f"layers.{step % 2}." in name]


class Demonstrating(SeqFT):
    """Every prompt is answered behind the task's first training example."""

    name = "demonstrating"

    def answer(self, task: Task, prompts: Sequence[list[int]], learner: Answerer) -> list[str]:
        shown = task.train[0]
        return learner.generate([[*shown.prompt, *shown.answer, *prompt] for prompt in prompts])


class ZeroShot(Strategy):
    """Nothing is ever trained."""

    name = "zero_shot"

    def phases(self, round: Round) -> list[Phase]:
        return []


class Counting(Strategy):
    """Tells how often it was begun, and asks the learner for an answer in the middle of a round."""

    name = "counting"

    def __init__(self, beginning: int = 0) -> None:
        self.begun = beginning

    def begin_round(self, round: Round, learner: Learner) -> None:
        self.begun += 1
        self.said = learner.generate([round.task.train[0].prompt], tokens=2)

    def end_round(self, round: Round, learner: Learner) -> dict[str, Any]:
        return {"begun": self.begun, "said": self.said}


class Naming(Strategy):
    """What is named to it learns."""

    name = "naming"

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def trainable(self, round: Round, step: int, model: nn.Module) -> Collection[str] | None:
        return self.names


@dataclass
class Babbling(LFPT5):
    """LFPT5 of a model too small to come to an end: whatever it says is a pseudo sample."""

    def is_whole(self, ids: list[int], end: int) -> bool:
        return len(ids) > 1
