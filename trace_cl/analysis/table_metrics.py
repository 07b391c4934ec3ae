"""All figures by all definitions, a row a method: ours beside those recomputed from the paper's matrices."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from trace_cl import metrics
from trace_cl.analysis.baselines import further
from trace_cl.analysis.further import EVERY, commands
from trace_cl.analysis.shown import Shown, cell, pivot
from trace_cl.analysis.stored import StoredRun, by_method, find, find_published, method_order
from trace_cl.errors import UserError


def make(published: str, model: str, benchmark: str, runs: Path, published_only: bool) -> Shown:
    """The table; `published` is the model whose printed matrices stand beside the runs of ours. Raises UserError for a
    run that is damaged, and where there is nothing to show."""
    theirs = {run.method: run for run in find_published(published)}
    every = [] if published_only else find(runs, benchmark, model)
    groups = by_method(run for run in every if run.complete)
    ours = {seeds[0].method: seeds for seeds in groups}
    lines = [
        _cell(method, figure, theirs.get(method), ours.get(method, ()))
        for method in sorted({*theirs, *ours}, key=method_order)
        for figure in EVERY
    ]
    if not lines:
        raise UserError(f"there is no finished run under {runs / benchmark / model}: start one with python -m trace_cl")
    tidy = pd.DataFrame(lines)
    wide = pivot(tidy.assign(published=tidy["recomputed"]) if published_only else tidy, published_only)
    of = "recomputed from the paper's matrices" if published_only else f"ours: {model} on {benchmark}"
    notes = [f"{figure.name}: {figure.meaning}; {figure.formula}" for figure in EVERY]
    if wanted := commands(groups):
        notes += ["Runs that figures are held against are missing:", *wanted]
    return Shown(tidy, wide, f"Figures by their definitions; {of}", notes)


def _cell(method: str, figure: metrics.Figure, theirs: StoredRun | None, ours: Sequence[StoredRun]) -> dict[str, Any]:
    values = [(run.figures | further(run))[figure.name][-1] for run in ([theirs] if theirs else []) + list(ours)]
    recomputed = values.pop(0) if theirs else None
    return cell(method, figure.name, None, values, recomputed)
