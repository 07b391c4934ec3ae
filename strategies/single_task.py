"""Single-task fine-tuning: each task learned alone, from the base model. An upper bound, not a method."""

from dataclasses import dataclass

from .base import Round, Task
from .seqft import SeqFT


@dataclass
class SingleTask(SeqFT):
    """As many models as there are tasks: nothing is handed on, nothing forgotten (TRACE's SingleFT).

    Whoever answers has to know which task a text is of, to ask that task's model. Of the models only the last is kept,
    of the others their answers: S[t, i] is S[i, i], OP the mean score of single-task models, and BWT 0.
    """

    name = "single_task"
    needs_task_id = True
    begins_anew = True

    def unchanged(self, round: Round, task: Task) -> bool:
        """A past task's model learns no more."""
        return True
