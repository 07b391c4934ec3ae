"""Zero-shot: the base model as it is. A lower bound, not a method."""

from dataclasses import dataclass

from .base import Phase, Round, Strategy, Task


@dataclass
class ZeroShot(Strategy):
    """No round trains anything: every row of the matrix is the base model's scores."""

    name = "zero_shot"
    leaves_model = True
    trains = False

    def phases(self, round: Round) -> list[Phase]:
        return []

    def unchanged(self, round: Round, task: Task) -> bool:
        return True
