"""Table 12 of the HFT paper: what is left of nine general abilities after all of TRACE, and of our runs.

Of our runs stands what `trace_cl.abilities` has measured after the last round. Where the benchmark has exercises of its
own (`benchmark.abilities`) these stand in: their mean, and ΔR, what learning the tasks has cost of them.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from trace_cl.analysis.abilities import DELTA, MEAN, MEANING, delta, overall
from trace_cl.analysis.shown import Shown, cell, contradictions, pivot
from trace_cl.analysis.stored import STRATEGIES, finished
from trace_cl.analysis.text import over_seeds
from trace_cl.records.files import PUBLISHED, read_json

OVERALL = "overall"


def printed() -> dict[str, Any]:
    """table12.json: the abilities, and by model and method what the paper prints of each, and of their mean."""
    return read_json(PUBLISHED / "table12.json")


def methods(model: str) -> list[str]:
    """The methods in the table, in its order; of a model of one's own those of the first."""
    rows = printed()["rows"]
    return list(rows.get(model, next(iter(rows.values()))))


def make(models: dict[str, str], ours: Path, published_only: bool) -> Shown:
    """The table; `models` gives for each published model the one of ours that stands beside it, whose runs lie in a
    benchmark's folder. Raises UserError for a run that is damaged."""
    said = printed()
    lines: list[dict[str, Any]] = []
    own: dict[str, dict[str, str]] = {}
    missing = False
    for published, model in models.items():
        for method, figures in said["rows"][published].items():
            row = f"{name_of(method)} ({published})"
            runs = [] if published_only else finished(ours, model, method)
            after = [run.abilities(len(run.rows)) for run in runs]
            missing |= not runs or not all(after)
            lines += beside(row, said["abilities"], figures, after)
            deltas = [delta(scores, run.abilities(0)) for scores, run in zip(after, runs, strict=True)]
            own[row] = {
                f"our {MEAN}": over_seeds([overall(scores) for scores in after]),
                f"our {DELTA}": over_seeds(deltas),
            }
    tidy = pd.DataFrame(lines)
    wide = pivot(tidy, published_only=not tidy["seeds"].any())
    notes = contradictions(12, tidy, "its nine abilities")
    caption = "Table 12: general abilities after all eight tasks"
    if not published_only:
        wide = wide.join(pd.DataFrame.from_dict(own, orient="index"))
        caption += f"; our {MEAN} and {DELTA}: of whatever abilities our runs were asked for"
        notes.append(MEANING)
    return Shown(tidy, wide, caption, notes, missing and not published_only)


def beside(row: str, names: list[str], figures: dict[str, Any], after: list[dict[str, float]]) -> list[dict[str, Any]]:
    """A row's nine and their mean, as printed, and ours of the runs that were asked for the same."""
    same = [scores for scores in after if scores.keys() == set(names)]
    nine = dict(zip(names, figures["scores"], strict=True))
    lines = [cell(row, name, score, [scores[name] for scores in same]) for name, score in nine.items()]
    mean = sum(nine.values()) / len(nine)
    return [*lines, cell(row, OVERALL, figures["mean"], [overall(scores) for scores in same], mean)]


def name_of(method: str) -> str:
    """A method as the paper calls it."""
    strategy, half, _ = method.partition("+hft")
    return STRATEGIES[strategy] + (" with HFT" if half else "")
