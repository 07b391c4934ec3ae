"""The result for people: the matrix as a table, report.md and its pictures."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trace_cl import metrics
from trace_cl.analysis.abilities import section
from trace_cl.analysis.forgetting import WHY, Cell, cells, learned_and_forgotten, when_learned
from trace_cl.analysis.further import definitions
from trace_cl.analysis.losses import LOSSES, loss_table, reference_losses, sentence, with_general_loss
from trace_cl.analysis.stored import StoredRun
from trace_cl.analysis.text import UNDEFINED, headline, identity, legend, markdown, render, square, table, undefined
from trace_cl.errors import UserError
from trace_cl.records.files import write
from trace_cl.records.predictions import kept_answers
from trace_cl.records.terms import findings

__all__ = ["figures", "render", "write_report"]


def figures(rows: Sequence[Sequence[float]], untrained: Collection[int] = ()) -> dict[str, list[float | None]]:
    """Every figure after every finished round, by name, as summary.json holds them; None where it is undefined.

    `untrained` are the rounds, counted from 1, in which nothing was learned.
    """
    return metrics.figures(square(rows), untrained)


def matrix(rows: Sequence[Sequence[float]], tasks: Sequence[str]) -> pd.DataFrame:
    """A run's rows as `read_matrix` gives them: indexed by round, a column a task, NaN above the diagonal."""
    filled = [[*row, *[np.nan] * (len(tasks) - len(row))] for row in rows]
    return pd.DataFrame(filled, index=range(1, len(rows) + 1), columns=list(tasks))


def training_of(rounds: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row a round: what was trained, on how much, how long; and the numbers the strategy records of its rounds."""
    keys = dict.fromkeys(
        key for record in rounds for key, value in record["strategy"].items() if isinstance(value, int | float)
    )
    lines = []
    for record in rounds:
        loss, recorded = record["final_loss"], record["strategy"]
        lines.append(
            {
                "round": f"{record['round']}",
                "task": record["task"],
                "trainable %": f"{100 * record['trainable_share']:.1f}",
                "steps": f"{record['optimizer_steps']}",
                "tokens": f"{record['tokens']:,}",
                "final loss": UNDEFINED if loss is None else f"{loss:.3f}",
                "training s": f"{record['seconds']:.0f}",
                "scoring s": f"{record['evaluation_seconds']:.0f}",
                **{key.replace("_", " "): f"{recorded[key]:.3g}" if key in recorded else "" for key in keys},
            }
        )
    return pd.DataFrame(lines).set_index("round")


def terms_of(rounds: Sequence[Mapping[str, Any]]) -> str:
    """The part on what the method did beside the loss; empty where it has no terms."""
    lines = [
        {
            "round": f"{record['round']}",
            "task": record["task"],
            "term": name.replace("_", " "),
            "steps it acted in": f"{term['acted']} of {term['steps']}",
            "mean": f"{term['mean']:.3g}",
            "times the loss": "" if term["times_loss"] is None else f"{term['times_loss']:.3g}",
        }
        for record in rounds
        for name, term in record.get("terms", {}).items()
    ]
    if not lines:
        return ""
    said = "".join(f"- **{finding}**\n" for record in rounds for finding in findings(record))
    return f"\n## Terms of the method\n\n{markdown(pd.DataFrame(lines).set_index('round'))}\n\n{said}"


def losses_of(frame: pd.DataFrame) -> str:
    """The part on the references' losses; empty where none was measured."""
    return "" if frame.empty else f"\n## Loss of the references\n\n{markdown(frame)}\n{paragraph(LOSSES)}"


def paragraph(text: str) -> str:
    """A paragraph below what stands before it; nothing of no text."""
    return f"\n{text}\n" if text else ""


def newest_cells(folder: Path, tasks: Sequence[str], untrained: Collection[int]) -> list[Cell]:
    """What became of the answers to these finished tasks. None where they are not what a run writes: a run goes on
    without them."""
    answers = partial(kept_answers, folder)
    try:
        return cells(when_learned(tasks, answers), [len(tasks)], answers, untrained)
    except UserError:
        return []


def coarse(folder: Path, row: Sequence[float], tasks: Sequence[str]) -> str:
    """The intervals of the newest round's scores that are of few examples, in one sentence; empty where none is, or the
    answers are not what a run writes."""
    said = []
    for task, score in zip(tasks, row, strict=True):
        try:
            count = len(kept_answers(folder, len(row), task))
        except UserError:
            continue
        if 0 < count < metrics.SMALL:
            low, high = metrics.wilson(score, count)
            said.append(f"{task} {score:.1f} ({low:.1f} to {high:.1f}; {count} rows)")
    if not said:
        return ""
    return (
        f"The newest scores of fewer than {metrics.SMALL} rows, with their 95% intervals (Wilson's, as of right and "
        f"wrong answers): {', '.join(said)}."
    )


def pictures(method: str, title: str, scores: pd.DataFrame) -> dict[str, bytes]:
    """The pictures that report.md shows, by their files' names."""
    # What draws is not needed before a run has begun.
    from trace_cl.analysis.plots import Method, curves, heatmap, image

    return {"heatmap.png": image(heatmap(scores, title)), "curves.png": image(curves([Method(method, [scores])]))}


def write_pictures(
    folder: Path, scores: Sequence[Sequence[float]], tasks: Sequence[str], summary: Mapping[str, Any]
) -> None:
    """heatmap.png and curves.png of the finished rounds: a row of `scores` has those of the tasks seen, or of all."""
    values = figures([row[:t] for t, row in enumerate(scores, start=1)], summary.get("untrained_rounds", []))
    title = f"{name_of(folder, summary)}\n{headline(values)} after {len(scores)} of {len(tasks)} rounds"
    for file, picture in pictures(folder.parent.name, title, matrix(scores, tasks)).items():
        write(folder / file, picture)


def name_of(folder: Path, summary: Mapping[str, Any]) -> str:
    """The run, in a title; its folder names the method, with the settings that tell it from others."""
    return f"{folder.parent.name} on {summary['benchmark']}, {summary['model']}, seed {summary['seed']}"


def write_report(
    folder: Path,
    scores: Sequence[Sequence[float]],
    tasks: Sequence[str],
    rounds: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    base: Mapping[str, Any] | None = None,
) -> None:
    """report.md of the finished rounds: a row of `scores` has those of the tasks seen, or of all."""
    rows = [row[:t] for t, row in enumerate(scores, start=1)]
    untrained = summary.get("untrained_rounds", [])
    values = figures(rows, untrained)
    state = "Complete" if summary["complete"] else "Unfinished"
    found = newest_cells(folder, tasks[: len(rows)], untrained)
    losses = reference_losses(base or {}, rounds)
    others = definitions(StoredRun.of(folder, matrix(scores, tasks)))
    write(
        folder / "report.md",
        f"""# {name_of(folder, summary)}

{state}: {len(rows)} of {len(tasks)} rounds. **{headline(values)}**
{identity(summary.get("needs_task_id"))}

## Scores after each round

{markdown(with_general_loss(table(rows, tasks, values), summary))}

Scores run from 0 to 100 (variant: {summary["variant"]}). {legend()}{sentence(summary)}
{undefined(untrained)}
{paragraph(coarse(folder, rows[-1], tasks[: len(rows)]) if rows else "")}
![The matrix of scores](heatmap.png)

![Each task's score over the rounds](curves.png)

## Learned and forgotten

{markdown(learned_and_forgotten(rows, tasks, summary["zero_shot"], untrained, found))}
{paragraph(WHY if found else "")}{losses_of(loss_table(losses, rows, tasks, untrained))}{section(summary)}{others}
## Rounds

{markdown(training_of(rounds))}

Trainable: share of the transformer layers' matrix parameters. Every answer with its score: `predictions/`; every
optimizer step: `train.jsonl`; what was frozen: `rounds/`.
{terms_of(rounds)}""",
    )
