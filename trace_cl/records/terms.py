"""A method's own terms beside the loss, followed over a round: whether they did anything, and how large they were."""

from collections.abc import Iterable, Mapping
from typing import Any

OUTWEIGHED = 100
"""A term that is on average so many times the loss leaves the task itself no say."""


class Terms:
    """Fed with the lines of train.jsonl, one by one; a resumed round feeds those it has again.

    A named term that a line does not have was zero in that step.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.sums = dict.fromkeys(names, 0.0)
        self.acted = dict.fromkeys(self.sums, 0)
        self.weighed: set[str] = set()
        self.steps = 0
        self.loss = 0.0

    def add(self, line: Mapping[str, Any]) -> None:
        """A step. The loss that terms are held against is the task's own, where they are part of `loss`."""
        self.steps += 1
        self.loss += abs(line.get("task_loss", line["loss"]))
        for name in self.sums:
            value = line.get(name, 0.0)
            self.sums[name] += abs(value)
            self.acted[name] += value != 0
            if name in line and not isinstance(value, bool):
                self.weighed.add(name)

    def record(self) -> dict[str, dict[str, float | None]]:
        """Of each term: in how many steps it was not zero, its mean size, and that over the loss's mean (None for what
        is said of a step and not weighed, as whether it was projected)."""
        return {
            name: {
                "steps": self.steps,
                "acted": self.acted[name],
                "mean": total / self.steps,
                "times_loss": total / self.loss if name in self.weighed and self.loss else None,
            }
            for name, total in self.sums.items()
            if self.steps
        }


def findings(record: Mapping[str, Any]) -> list[str]:
    """What is to be said of a round's terms, out of its record."""
    said = []
    for name, term in record.get("terms", {}).items():
        where = f"round {record['round']} ({record['task']}): {name.replace('_', ' ')}"
        if not term["acted"]:
            said.append(f"{where} was zero in all of {term['steps']} steps, so that the method did nothing by it")
        elif (term["times_loss"] or 0) > OUTWEIGHED:
            said.append(
                f"{where} was {term['times_loss']:,.0f} times the loss on average, which leaves the task no say"
            )
    return said
