"""The paper's tables from runs, beside the published figures: `python -m trace_cl.tables N`.

Tables 24 to 42 are matrices: a row a task, a column a round, then the figures. Tables 3, 4 and 7 set the figures of
whole runs side by side. What is called published is what the paper prints; a figure that it does not print is
recomputed from its matrix, and marked. A published run has the format of any other, and is read by the same code.
Tables 5 and 12 (`table5`, `table12`) and the one of what other papers print (`table_trace`) have no published runs;
`table_metrics` has all figures by all definitions.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from trace_cl import metrics
from trace_cl.analysis import table5, table12, table_metrics, table_trace
from trace_cl.analysis.shown import Shown, cell, contradictions, pivot, show
from trace_cl.analysis.stored import (
    STRATEGIES,
    StoredRun,
    default_benchmark,
    find_published,
    finished,
    folder_of_runs,
    last,
)
from trace_cl.analysis.text import RECOMPUTED, UNDEFINED, at
from trace_cl.errors import UserError
from trace_cl.paths import check_name
from trace_cl.records.files import PUBLISHED, read_json

MODELS = ("llama2-chat-7b", "llama2-chat-13b")

COMPARED = {
    4: {"FFT": "seqft", "model-level": "seqft+hft-model", "layer-level": "seqft+hft-layer", "category": "seqft+hft"},
    7: {
        "38.9%, update E,H": "seqft+hft-2x1",
        "50.0%, update E,H": "seqft+hft",
        "61.1%, update E,H": "seqft+hft-2x2",
        "50.0%, freeze E,H": "seqft+hft-frozen_embeddings",
    },
}
"""Tables 4 and 7: the name of each row, and the method whose run it is, in the order of `tables.json`."""


def printed() -> dict[str, Any]:
    """tables.json: which run stands behind which table, and what tables 3, 4 and 7 print: [OP, BWT]."""
    return read_json(PUBLISHED / "tables.json")


def matrix_table(published: StoredRun, ours: Sequence[StoredRun]) -> pd.DataFrame:
    """Tables 24 to 42, tidy."""
    runs = [published, *ours]
    rounds = range(1, max(len(run.tasks) for run in runs) + 1)
    lines = []
    for task in dict.fromkeys(task for run in runs for task in run.tasks):
        theirs, *own = [run.scores(task) if task in run.tasks else {} for run in runs]
        for t in rounds:
            values = [scores[t] for scores in own if t in scores]
            if t in theirs or values:
                lines.append(cell(task, str(t), theirs.get(t), values))
    for figure in metrics.FIGURES:
        said, recomputed = published.printed.get(figure.name, []), published.figures[figure.name]
        for t in rounds:
            values_of = [run.figures[figure.name][t - 1] for run in ours if t <= len(run.tasks)]
            lines.append(cell(figure.name, str(t), at(said, t), values_of, at(recomputed, t)))
    return pd.DataFrame(lines)


def figures_of(
    row: str, column: str, published: StoredRun | None, said: Sequence[float], ours: Sequence[StoredRun]
) -> list[dict[str, Any]]:
    """The lines of one run's figures after the last round; `said` are the OP and BWT that the table prints."""
    prints = dict(zip(("OP", "BWT"), said, strict=False))
    return [
        cell(
            row,
            column.format(figure.name),
            prints.get(figure.name),
            last(ours, figure.name),
            published.figures[figure.name][-1] if published else None,
        )
        for figure in metrics.FIGURES
    ]


def comparison(number: int, model: str, ours: Path) -> pd.DataFrame:
    """Tables 4 and 7, tidy: the figures of several methods of one model, ours in a benchmark's folder."""
    lines = []
    prints = printed()[f"table{number}"].values()
    for (name, method), said in zip(COMPARED[number].items(), prints, strict=True):
        [published] = find_published(MODELS[0], method)
        lines += figures_of(name, "{}", published, said, finished(ours, model, method))
    return pd.DataFrame(lines)


def table3(models: Mapping[str, str], ours: Path) -> pd.DataFrame:
    """Table 3, tidy: `models` gives for each published model the one of ours that stands beside it.

    The gain is HFT's figure less full fine-tuning's of the same strategy.
    """
    lines: list[dict[str, Any]] = []
    for model, own in models.items():
        for strategy, name in STRATEGIES.items():
            said = printed()["table3"][model][strategy]
            sides = []
            for side, method in (("FFT", strategy), ("HFT", f"{strategy}+hft")):
                published = next(iter(find_published(model, method)), None)
                runs = finished(ours, own, method)
                sides.append(
                    figures_of(f"{name} ({model})", f"{{}} {side}", published, said.get(side.lower(), ()), runs)
                )
            for full, half in zip(*sides, strict=True):
                for source in ("published", "ours"):
                    half[f"{source} gain"] = half[source] - full[source]
                lines += [full, half]
    return pd.DataFrame(lines)


def matrices() -> dict[int, str]:
    """Which run stands behind each of the tables 24 to 42: `<model>/<method>`."""
    return {int(number): folder for number, folder in printed()["matrices"].items()}


def make(number: int, model: str | None, benchmark: str | None, runs: Path) -> tuple[pd.DataFrame, str]:
    """Table N, tidy, and its caption. Raises UserError for a run that is damaged."""
    benchmark = benchmark or default_benchmark(model)
    ours = runs / benchmark
    if number in matrices():
        published_model, method = matrices()[number].split("/")
        [published] = find_published(published_model, method)
        tidy = matrix_table(published, finished(ours, model or published_model, method))
        caption = f"Table {number}: {method}, {published_model}"
    elif number == 3:
        tidy = table3({published: model or published for published in MODELS}, ours)
        caption = "Table 3: OP and BWT, full (FFT) and half (HFT) fine-tuning, gain in brackets"
    else:
        tidy = comparison(number, model or MODELS[0], ours)
        caption = {4: "Table 4: how the half is chosen", 7: "Table 7: how much learns, embeddings and head or not"}[
            number
        ]
    if model:
        caption += f"; ours: {model} on {benchmark}"
    return tidy, caption


def rendered(table: str, model: str | None, benchmark: str | None, runs: Path, published_only: bool) -> Shown:
    """The table as it is to be shown. Raises UserError for one that there is not, and for a run that is damaged."""
    if table == "5":
        return table5.make(model or MODELS[0], benchmark or default_benchmark(model), runs, published_only)
    if table == "12":
        models = {published: model or published for published in (MODELS[:1] if model else MODELS)}
        return table12.make(models, runs / (benchmark or default_benchmark(model)), published_only)
    if table == "trace":
        return table_trace.make(model or MODELS[0], benchmark or default_benchmark(model), runs, published_only)
    if table == "metrics":
        ours = model or MODELS[0]
        published = ours if ours in MODELS else MODELS[0]
        return table_metrics.make(published, ours, benchmark or default_benchmark(model), runs, published_only)
    if table not in map(str, (*COMPARED, 3, *matrices())):
        raise UserError(f"there is no table {table} here: choose 3, 4, 5, 7, 12, 24 to 42, trace or metrics")
    tidy, caption = make(int(table), model, benchmark, runs)
    notes = contradictions(int(table), tidy)
    if not published_only and (tidy["published"].isna() & tidy["recomputed"].notna()).any():
        notes.append(f"Marked {RECOMPUTED}: the paper does not print it; recomputed from its matrix.")
    missing = bool(((tidy["seeds"] == 0) & tidy["published"].notna()).any())
    return Shown(tidy, pivot(tidy, published_only), caption, notes, missing and not published_only)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m trace_cl.tables", description="A table of the paper, from runs.")
    parser.add_argument(
        "table",
        help="3, 4, 5, 7, 12, 24 to 42; trace: what other papers print of TRACE; metrics: figures by all definitions",
    )
    parser.add_argument("--model", help="whose runs stand beside the published ones (default: the table's own model)")
    parser.add_argument("--benchmark", help="on what (default: embedded for tiny, else trace)")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--format", choices=["md", "csv", "latex"], default="md")
    parser.add_argument("--published", action="store_true", help="the published figures alone")
    parser.add_argument("--tried", action="store_true", help="the runs were just tried: not how to make those missing")
    options = parser.parse_args(arguments)
    try:
        for name in ("model", "benchmark"):
            if (value := getattr(options, name)) is not None:
                check_name(f"--{name}", value)
        if not options.published:
            folder_of_runs(options.runs)
        table = rendered(options.table, options.model, options.benchmark, options.runs, options.published)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if table.missing:
        setting = f" MODEL={options.model} BENCHMARK={options.benchmark or default_benchmark(options.model)}"
        makes = f": make table{options.table}{setting if options.model else ''} makes them"
        table.notes.append(f"runs are missing ({UNDEFINED}){'' if options.tried else makes}")
    show(table, options.format)
    return 0
