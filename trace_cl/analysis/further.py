"""How the figures of other papers (`metrics.FURTHER`) are shown: in report.md, on the page, in tables."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from trace_cl import metrics
from trace_cl.analysis.baselines import further, missing
from trace_cl.analysis.bootstrap import DRAWS, LEVEL, intervals
from trace_cl.analysis.stored import StoredRun
from trace_cl.analysis.text import RECOMPUTED, UNDEFINED, markdown, number, over_seeds
from trace_cl.errors import UserError

EVERY = (*metrics.FIGURES, *metrics.FURTHER)
"""All figures there are, in the order in which they are shown."""


def summarized(run: StoredRun) -> dict[str, Any]:
    """The part of summary.json: `further`, a list over the rounds by figure, and when the run is complete `intervals`,
    lower and upper end by figure. Without the figures whose scores are missing; and where something cannot be told, as
    another run is damaged or a score is no mean of its examples', with the reason: a run goes on without them."""
    said: dict[str, Any] = {}
    try:
        said["further"] = {name: values for name, values in further(run).items() if values[-1] is not None}
        if run.complete:
            newest = {name: values[-1] for name, values in (run.figures | said["further"]).items()}
            said["intervals"] = {name: list(map(float, ends)) for name, ends in intervals(run, EVERY, newest).items()}
    except UserError as error:
        said["no_intervals"] = str(error)
    return said


def frame(run: StoredRun) -> pd.DataFrame:
    """A row a figure that the run has, of texts: its value after the newest round, its interval if it is known, and its
    definition. Of a published run those alone that its paper does not print."""
    values = further(run) if run.published else run.figures | further(run)
    ends = run.intervals
    lines = {
        figure.name: [
            number(values[figure.name][-1], "+" if figure.signed else "") + RECOMPUTED * run.published,
            f"[{number(ends[figure.name][0])}, {number(ends[figure.name][1])}]" if figure.name in ends else "",
            figure.formula,
        ]
        for figure in EVERY
        if values.get(figure.name, [None])[-1] is not None
    }
    columns = ["value", f"{LEVEL:.0%} interval", "definition"]
    shown = pd.DataFrame.from_dict(lines, orient="index", columns=columns).rename_axis(index="figure")
    return shown if ends else shown[["value", "definition"]]


def definitions(run: StoredRun) -> str:
    """The part of report.md: the table, what its rows mean, and what makes those that are missing; or what is in the
    way, as another run that is damaged."""
    try:
        return f"\n## Figures by definition\n\n{_definitions(run)}"
    except UserError as error:
        return f"\n## Figures by definition\n\nThey cannot be told: {error}.\n"


def _definitions(run: StoredRun) -> str:
    text = f"{markdown(frame(run))}\n\n{BASELINES}"
    if run.intervals:
        text += f" Intervals: a bootstrap over the test examples ({DRAWS:,} draws), which says nothing of other seeds."
    elif "no_intervals" in run.summary:
        text += f" No intervals: {run.summary['no_intervals']}."
    wanted = [f"- {figure}: `{command}`" for figure, command in missing(run).items()]
    if not run.needs_task_id and not run.untrained and run.matrix.iloc[:1].isna().any(axis=None):
        wanted += [
            f"- {figure.name}: a run with `evaluation.tasks=all`" for figure in metrics.FURTHER if figure.of_unseen
        ]
    lines = "\n".join(wanted)
    return f"{text}\n" + (f"\nMissing, and what makes it:\n\n{lines}\n" if wanted else "")


BASELINES = "b: the base model's scores; ã: those of a model of each task alone; a*: those of one model of all tasks."
"""What the letters in the definitions mean."""


def by_seeds(groups: Sequence[Sequence[StoredRun]]) -> pd.DataFrame:
    """A row a method, given by its finished runs, and a column a further figure that any of them has: texts."""
    values = {seeds[0].method: [further(run) for run in seeds] for seeds in groups}
    lines = {
        method: {figure.name: over_seeds([run[figure.name][-1] for run in runs]) for figure in metrics.FURTHER}
        for method, runs in values.items()
    }
    shown = pd.DataFrame.from_dict(lines, orient="index").rename_axis(index="method")
    return shown.loc[:, (shown != UNDEFINED).any()]


def commands(groups: Sequence[Sequence[StoredRun]]) -> list[str]:
    """The commands, each once, that make the runs which figures of these are held against, where these are missing."""
    return list(dict.fromkeys(command for seeds in groups for run in seeds for command in missing(run).values()))
