"""Numbers that go wrong: where that happened, on which rows, said in a sentence and kept in a file of the run."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trace_cl.errors import UserError
from trace_cl.records.files import as_json, write
from trace_cl.strategies.base import Example, Round
from trace_cl.training.engine import RoundLearner

NAMED = 6
"""Rows that the sentence names at most; the file has them all."""


@dataclass(frozen=True)
class Step:
    """An optimizer step, and the examples it learns from."""

    round: Round
    phase: str
    epoch: int
    step: int
    examples: Sequence[Example]


def stop_unless_finite(values: Mapping[str, Any], at: Step, learner: RoundLearner, folder: Path | None) -> None:
    """Look at a step's numbers, also those inside of others.

    Raises UserError for one that is not finite, once the step's rows, each with its own loss and its gradient's norm
    as the weights are now, lie in the run's folder (None: another rank writes).
    """
    wrong = next(((name, number) for name, number in numbers(values) if not math.isfinite(number)), None)
    if wrong is None:
        return
    name, number = wrong
    found = places(at.round)
    rows = []
    for example in at.examples:
        task, row = found.get(id(example.answer), (None, None))
        loss, norm = learner.examine(example)
        known = {"task": task, "row": row} if task else {"prompt": example.prompt, "answer": example.answer}
        rows.append({**known, "tokens": len(example), "loss": plain(loss), "gradient_norm": plain(norm)})
    kept = f"failures/round{at.round.number}-step{at.step}.json"
    if folder is not None:
        record = {
            "round": at.round.number,
            "task": at.round.task.name,
            "phase": at.phase,
            "epoch": at.epoch,
            "step": at.step,
            name: plain(number),
            "rows": rows,
        }
        write(folder / kept, as_json(record))
    raise UserError(
        f"the {name.replace('_', ' ')} is {number} in round {at.round.number} ({at.round.task.name}), step {at.step}, "
        f"{blame(rows)} (see {kept} in the run's folder): "
        "lower training.learning_rate, or mend the rows; the rounds before it are kept"
    )


def numbers(values: Mapping[str, Any] | Iterable[Any], inside: str = "") -> Iterator[tuple[str, float]]:
    """Every number, by the name of the entry it stands in."""
    for name, value in values.items() if isinstance(values, Mapping) else ((inside, value) for value in values):
        if isinstance(value, int | float):
            yield name, value
        elif isinstance(value, Mapping | list | tuple):
            yield from numbers(value, name)


def places(round: Round) -> dict[int, tuple[str, int]]:
    """Task and row of every example the round may learn from, by the identity of its answer: a strategy that puts
    something before the prompts (progressive prompts) leaves the answers as they are."""
    sources = [("instructions", round.instructions), *((task.name, task.train) for task in round.tasks)]
    return {id(example.answer): (name, row) for name, examples in sources for row, example in enumerate(examples)}


def plain(number: float | None) -> float | str | None:
    """A number as JSON can hold it."""
    return number if number is None or math.isfinite(number) else str(number)


def blame(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows that are not finite by themselves, or all of them where that tells nothing."""
    guilty = [row for row in rows if isinstance(row["loss"], str) or isinstance(row["gradient_norm"], str)]
    meant = guilty or rows
    named = [f"{row['task']} {row['row']}" if row.get("task") else "a row of the strategy's own" for row in meant]
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    return f"on {'' if guilty else 'no row by itself among '}{', '.join(named[:NAMED])}{more}"
