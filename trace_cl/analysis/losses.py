"""The losses that stand beside the scores, on general text and of the references: how files hold and show them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from trace_cl.analysis.text import number

GENERAL = "loss on general text"

Losses = Sequence[Mapping[str, float | None]]
"""Of round 0 (the base model), 1, …: the loss of the references by task; empty where it was not measured."""


def general_loss(base: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The part of summary.json: the loss after each of these rounds, and the base model's (None where it was not
    measured, or is no number); nothing of a run that measured none."""
    losses = [record.get("general_loss") for record in (base, *rounds)]
    if losses == [None] * len(losses):
        return {}
    return {"base_general_loss": losses[0], "general_loss": losses[1:]}


def with_general_loss(table: pd.DataFrame, summary: Mapping[str, Any]) -> pd.DataFrame:
    """The table of a run's rounds, of texts, with a line of the loss where there is one."""
    if "general_loss" not in summary:
        return table
    longer = table.copy()
    longer.loc[GENERAL] = list(map(nats, summary["general_loss"]))
    return longer


def sentence(summary: Mapping[str, Any]) -> str:
    """What that line says, after a blank; empty where there is none."""
    if "general_loss" not in summary:
        return ""
    return (
        f" {GENERAL.capitalize()}: mean cross-entropy, in nats a token, of text that is no task's; the base model's is "
        f"{nats(summary['base_general_loss'])}."
    )


def reference_losses(base: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> Losses:
    """What these records, the base model's first, say of the references."""
    return [record.get("reference_loss", {}) for record in (base, *rounds)]


def loss_table(
    losses: Losses, rows: Sequence[Sequence[float]], tasks: Sequence[str], untrained: Collection[int]
) -> pd.DataFrame:
    """A row a task and a column a round, of texts, as the table of scores; what has risen since the task was learned
    while the score held is marked. Empty where nothing was measured."""
    measured = [t for t, of_round in enumerate(losses) if of_round]
    lines: dict[str, list[str]] = {}
    for i, task in enumerate(tasks[: len(rows)] if measured else [], start=1):
        lines[task] = []
        for t in measured:
            loss, then = losses[t].get(task), losses[i].get(task)
            risen = t > i and i not in untrained and loss is not None and then is not None and loss > then
            held = t > i and rows[i - 1][i - 1] - rows[t - 1][i - 1] < POINT
            lines[task].append((nats(loss) if task in losses[t] else "") + RISEN * (risen and held))
    frame = pd.DataFrame.from_dict(lines, orient="index", columns=[str(t) for t in measured])
    return frame.rename_axis(index="task \\ round")


RISEN, POINT = "*", 1.0
"""Marks a loss that has risen while the score has not fallen by so much."""

LOSSES = f"""Mean cross-entropy, in nats a token, of the references as answers to what was asked; round 0 is the base
model. {RISEN}: higher than when the task was learned, though the score is not a point lower."""


def nats(loss: float | None) -> str:
    """A loss as it is shown."""
    return number(loss, digits=3)
