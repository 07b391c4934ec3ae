"""Why did a score fall? `python -m trace_cl.diagnose RUN` reads it from the run's answers (`forgetting`)."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import pandas as pd

from trace_cl.analysis.forgetting import Answers, Cell, cells, references_of, when_learned
from trace_cl.analysis.formats import Formats
from trace_cl.analysis.losses import Losses, nats
from trace_cl.analysis.stored import StoredRun
from trace_cl.analysis.text import markdown, number
from trace_cl.errors import UserError


def recognised(references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """How far the formats can be trusted: the share of each task's references that are taken for its format, in two
    halves, each judged by the formats of the other. A format is named as by all of them."""
    whole = Formats(references)
    right: dict[str, list[bool]] = {task: [] for task in references}
    for half in (0, 1):
        formats = Formats({task: texts[1 - half :: 2] for task, texts in references.items()})
        named = {formats.of[task]: whole.of[task] for task in reversed(list(references))}
        for task, texts in references.items():
            right[task] += [named[form] == whole.of[task] for form in formats.closest(texts[half::2])]
    return {task: mean(values) for task, values in right.items()}


def every_answer(run: StoredRun) -> Answers:
    """The run's answers. Raises UserError for those that were not kept."""

    def answers(round: int, task: str) -> list[dict[str, object]]:
        lines = run.predictions(round, task)
        if not lines:
            raise UserError(
                f"{run.folder}/predictions/round{round}/{task}.jsonl is missing: a diagnosis reads every answer"
            )
        return lines

    return answers


def table(found: Sequence[Cell], trust: Mapping[str, float], losses: Losses, tasks: Sequence[str]) -> pd.DataFrame:
    """A row a task: what became of it until a round, whose cells these are; with the loss of its references where that
    was measured."""
    lines = []
    for each in found:
        [(most, count)] = each.other.most_common(1) or [("", 0)]
        lines.append(
            {
                "task": each.task,
                "fall": number(each.fall),
                **each.shares,
                "empty": str(each.empty),
                "other format": str(each.other.total()),
                "most like": f"{most} ({count})" if most else "",
                "recognised": f"{trust[each.task]:.0%}",
                **({name: nats(loss) for name, loss in both(each, losses, tasks).items()} if any(losses) else {}),
            }
        )
    return pd.DataFrame(lines).set_index("task")


def both(cell: Cell, losses: Losses, tasks: Sequence[str]) -> dict[str, float | None]:
    """The loss of a cell's references then and now."""
    then, now = losses[tasks.index(cell.task) + 1], losses[cell.round]
    return {"loss when learned": then.get(cell.task), "loss now": now.get(cell.task)}


def csv(found: Sequence[Cell], losses: Losses, tasks: Sequence[str]) -> str:
    """A line a cell, all in full; scores and parts of falls in points, losses in nats a token."""
    lines = [
        {
            **vars(each),
            "other": each.other.total(),
            "other_formats": " ".join(f"{k}:{n}" for k, n in each.other.items()),
            **{name.replace(" ", "_"): loss for name, loss in both(each, losses, tasks).items()},
        }
        for each in found
    ]
    return pd.DataFrame(lines).to_csv(index=False)


LEGEND = """fall: the score when it was learned less the score now. By format, by empty: how much of the fall is that of
answers that look like another task's, or are empty; the rest are wrong in the right form. Most like: the task (the
first of those with one format) whose answers most of the strange ones look like. Recognised: how many of the task's own
references are taken for its format; where that is low the columns before it say little."""

OF_LOSSES = """ Loss: mean cross-entropy of the
references as answers to what was asked, in nats a token; it can rise before the score falls."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m trace_cl.diagnose", description="Why scores fell: what became of a run's answers."
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a run's folder")
    parser.add_argument("--round", type=int, help="until which round (default: the last finished one)")
    parser.add_argument("--format", choices=["md", "csv"], default="md", help="csv: a line a cell, of all rounds")
    options = parser.parse_args(arguments)
    try:
        run = StoredRun.at(options.run)
        last = len(run.rows)
        round = last if options.round is None else options.round
        if last < 2:
            raise UserError(f"{options.run} has one finished round only: nothing can have been forgotten yet")
        if not 2 <= round <= last:
            raise UserError(f"--round {round} is not between 2 and {last}, the last finished one")
        answers = every_answer(run)
        learned = when_learned(run.tasks[:last], answers)
        rounds = range(2, last + 1) if options.format == "csv" else [round]
        found = cells(learned, rounds, answers, run.untrained)
        if not found:
            raise UserError(f"{options.run} had learned nothing before round {round}: nothing can be forgotten")
        if options.format == "csv":
            print(csv(found, run.reference_losses, run.tasks), end="")
            return 0
        shown = table(found, recognised(references_of(learned)), run.reference_losses, run.tasks)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{markdown(shown)}\n\n{LEGEND}{OF_LOSSES if any(run.reference_losses) else ''}")
    return 0
