"""What became of a task's answers after it was learned: how many changed, became empty, or fell into another's format.

An answer that is not the task's but another's in form (a number where a letter is asked) was lost with the format,
whatever is left of the knowledge; one in the right form that is wrong was lost with the knowledge.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd

from trace_cl.analysis.formats import Formats
from trace_cl.analysis.text import UNDEFINED
from trace_cl.errors import UserError

Lines = list[dict[str, Any]]
"""Answers as `read_predictions` gives them."""

Answers = Callable[[int, str], Lines]
"""A task's answers after a round; empty where they were not kept."""


@dataclass(frozen=True)
class Cell:
    """What became of a task's answers between the round in which it was learned and a later one.

    `other` counts answers by the format they fell into, that of the task itself left out; `fall` is the score then less
    the score now, and `of_format` and `of_empty` are the parts of it that such answers and empty ones account for.
    """

    round: int
    task: str
    answers: int
    changed: int
    empty: int
    other: Counter[str]
    fall: float
    of_format: float
    of_empty: float

    @property
    def shares(self) -> dict[str, str]:
        """How much of the fall is of format, and empty; and how many answers changed."""
        return {
            "by format": share(self.of_format, self.fall),
            "by empty": share(self.of_empty, self.fall),
            "changed": f"{self.changed} of {self.answers}",
        }


def when_learned(tasks: Sequence[str], answers: Answers) -> dict[str, Lines]:
    """By task, in the order in which they were learned, the answers of its own round."""
    return {task: answers(number, task) for number, task in enumerate(tasks, start=1)}


def references_of(learned: Mapping[str, Lines]) -> dict[str, list[str]]:
    """The references of the tasks whose answers were kept."""
    return {task: [line["reference"] for line in lines] for task, lines in learned.items() if lines}


def cells(
    learned: Mapping[str, Lines], rounds: Iterable[int], answers: Answers, untrained: Collection[int] = ()
) -> list[Cell]:
    """The cells of these rounds below the diagonal, as far as their answers were kept; none of a task in whose own
    round nothing was learned. Raises as `cell`."""
    trained = {task: t for t, task in enumerate(learned, start=1) if t not in untrained and learned[task]}
    below = [(round, task) for round in rounds for task, t in trained.items() if t < round]
    if not below:
        return []
    formats = Formats(references_of(learned))
    return [cell(round, task, learned[task], now, formats) for round, task in below if (now := answers(round, task))]


def cell(round: int, task: str, then: Lines, now: Lines, formats: Formats) -> Cell:
    """One cell. Raises UserError unless both are answers to the same examples, in one order."""
    if [line["index"] for line in then] != [line["index"] for line in now]:
        raise UserError(f"the answers to {task} of round {round} are not to its own round's examples: put them back")
    pairs = list(zip(then, now, strict=True))
    own = formats.of[task]
    empty = [not after["prediction"].strip() for after in now]
    closest = formats.closest([after["prediction"] for after in now], own)
    strange = [not nothing and form != own for nothing, form in zip(empty, closest, strict=True)]
    falls = [float(before["score"] - after["score"]) for before, after in pairs]

    def part(of: Sequence[bool]) -> float:
        return mean(fall if counts else 0.0 for fall, counts in zip(falls, of, strict=True))

    return Cell(
        round,
        task,
        len(pairs),
        sum(before["prediction"] != after["prediction"] for before, after in pairs),
        sum(empty),
        Counter(form for form, is_strange in zip(closest, strange, strict=True) if is_strange),
        mean(falls),
        part(strange),
        part(empty),
    )


def share(part: float, fall: float) -> str:
    """A part of a fall in percent; a dash where nothing fell."""
    return f"{part / fall:.0%}" if fall > 0 else UNDEFINED


def learned_and_forgotten(
    rows: Sequence[Sequence[float]],
    tasks: Sequence[str],
    zero_shot: Mapping[str, float],
    untrained: Collection[int],
    found: Sequence[Cell],
) -> pd.DataFrame:
    """A row a finished task: its score before training, after its own round if something was learned in it, and now;
    and of what is forgotten what the newest cells say, if any were found."""
    frame = pd.DataFrame(index=pd.Index(tasks[: len(rows)], name="task"))
    frame["base model"] = [zero_shot.get(task, np.nan) for task in frame.index]
    frame["learned"] = [np.nan if t in untrained else row[-1] for t, row in enumerate(rows, start=1)]
    frame["at the end"] = list(rows[-1])
    frame["forgotten"] = frame["learned"] - frame["at the end"]
    why = {each.task: each.shares for each in found}
    return frame.join(pd.DataFrame.from_dict(why, orient="index")).astype(object) if why else frame


WHY = """By format, by empty: how much of what is forgotten is that of answers that look like another task's, or are
empty; the rest are wrong in the right form. Changed: answers that are not what they were when the task was learned."""
