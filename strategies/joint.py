"""Joint training: all tasks at once, with nothing to forget. An upper bound, not a method."""

from dataclasses import dataclass

from .base import Phase, Round
from .seqft import SeqFT


@dataclass
class Joint(SeqFT):
    """No round trains but the last, which learns every task together (TRACE's multi-task baseline).

    The examples of all tasks are shuffled into one stretch of training, each as often as its task has epochs: every
    example is seen as often as sequential fine-tuning sees it.
    """

    name = "joint"

    def phases(self, round: Round) -> list[Phase]:
        if not round.last:
            return []
        return [Phase("joint", [example for task in round.tasks for example in [*task.train] * task.epochs], epochs=1)]
