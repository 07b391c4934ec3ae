"""The loss on general text: how summary.json holds it, and how the report shows it."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from trace_cl.analysis.text import number

GENERAL = "loss on general text"


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
    longer.loc[GENERAL] = list(map(_nats, summary["general_loss"]))
    return longer


def sentence(summary: Mapping[str, Any]) -> str:
    """What that line says, after a blank; empty where there is none."""
    if "general_loss" not in summary:
        return ""
    return (
        f" {GENERAL.capitalize()}: mean cross-entropy, in nats a token, of text that is no task's; the base model's is "
        f"{_nats(summary['base_general_loss'])}."
    )


def _nats(loss: float | None) -> str:
    return number(loss, digits=3)
