"""General abilities: how summary.json holds those that a run itself has scored, and how all are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from trace_cl.analysis.stored import StoredRun
from trace_cl.analysis.text import markdown, number
from trace_cl.metrics import general_ability_delta, overall_ability

Abilities = Mapping[str, float]
"""Scores from 0 to 100 by ability; empty where none was scored."""

MEAN, DELTA = "mean", "ΔR"

MEANING = (
    f"{DELTA}: the mean of the score less the base model's (TRACE, section 4.2): what learning the tasks has cost of "
    "what they do not ask for."
)


def abilities(base: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The part of summary.json: the scores after each of these rounds, and the base model's (empty where it was not
    asked); nothing of a run that scored none."""
    scores = [record.get("abilities", {}) for record in (base, *rounds)]
    return {"base_abilities": scores[0], "abilities": scores[1:]} if any(scores) else {}


def table(by_round: Mapping[int, Abilities]) -> pd.DataFrame:
    """A row an ability, a column a round (0 is the base model), of texts; then the mean, and where the base model was
    asked for the same, ΔR."""
    names = dict.fromkeys(ability for scores in by_round.values() for ability in scores)
    frame = pd.DataFrame(index=pd.Index([*names, MEAN, DELTA], name="ability \\ round"))
    for t, scores in by_round.items():
        figures = {MEAN: overall(scores), DELTA: delta(scores, by_round.get(0, {})) if t else None}
        frame["base model" if t == 0 else str(t)] = [
            *("" if ability not in scores else number(scores[ability]) for ability in names),
            *(number(figures[MEAN]), "" if t == 0 else number(figures[DELTA], "+")),
        ]
    return frame


def side_by_side(models: Mapping[str, Abilities]) -> pd.DataFrame:
    """A row an ability, a column a model, of texts; then the mean."""
    names = dict.fromkeys(ability for scores in models.values() for ability in scores)
    frame = pd.DataFrame(index=pd.Index([*names, MEAN], name="ability"))
    for model, scores in models.items():
        cells = ("" if ability not in scores else number(scores[ability]) for ability in names)
        frame[model] = [*cells, number(overall(scores))]
    return frame


def overall(scores: Abilities) -> float | None:
    """The mean over abilities; None where none was scored."""
    return overall_ability(scores) if scores else None


def delta(after: Abilities, before: Abilities) -> float | None:
    """ΔR; None where the base model was not asked for the same abilities."""
    return general_ability_delta(after, before) if after and after.keys() == before.keys() else None


def of_run(run: StoredRun) -> dict[int, Abilities]:
    """What was scored of a run, by round; rounds of which nothing was are left out."""
    found = {t: run.abilities(t) for t in range(len(run.rows) + 1)}
    return {t: scores for t, scores in found.items() if scores}


def section(summary: Mapping[str, Any]) -> str:
    """The part of report.md; empty where the run has scored none."""
    if "abilities" not in summary:
        return ""
    by_round = {0: summary["base_abilities"]} if summary["base_abilities"] else {}
    shown = table(by_round | dict(enumerate(summary["abilities"], start=1)))
    return (
        f"\n## General abilities\n\n{markdown(shown)}\n\nExercises of no task, from 0 to 100: how many of them the "
        f"model would answer to the letter. {MEANING}\n"
    )
