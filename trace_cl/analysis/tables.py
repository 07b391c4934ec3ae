"""The paper's tables from runs, beside the published figures: `python -m trace_cl.tables N`.

Tables 24 to 42 are matrices: a row a task, a column a round, then the figures. Tables 3, 4 and 7 set the figures of
whole runs side by side. What is called published is what the paper prints; a figure that it does not print is
recomputed from its matrix, and marked. A published run has the format of any other, and is read by the same code.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pandas as pd

from trace_cl import metrics
from trace_cl.analysis.stored import (
    STRATEGIES,
    StoredRun,
    agreeing,
    default_benchmark,
    find,
    find_published,
    folder_of_runs,
    last,
)
from trace_cl.analysis.text import RECOMPUTED, UNDEFINED, at, markdown, number
from trace_cl.errors import UserError
from trace_cl.paths import check_name
from trace_cl.records.files import PUBLISHED, read_json

ROUNDING = 0.051
"""A printed figure and the one recomputed from its matrix, both rounded to 0.1, may differ by as much."""

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


def finished(runs: Path, model: str, method: str) -> list[StoredRun]:
    """The finished runs of a method in a benchmark's folder, seed by seed.

    Raises UserError where they differ in more than the seed.
    """
    return agreeing([run for run in find(runs.parent, runs.name, model, method) if run.complete])


def cell(
    row: str,
    column: str,
    published: float | None,
    ours: Sequence[float | None],
    recomputed: float | None = None,
) -> dict[str, Any]:
    """One line of a tidy table: what is printed, or else recomputed, and ours (one a seed), mean and deviation."""
    known = [value for value in ours if value is not None]
    average = mean(known) if known else np.nan
    reference = recomputed if published is None else published
    return {
        "row": row,
        "column": column,
        "published": np.nan if published is None else published,
        "recomputed": np.nan if recomputed is None else recomputed,
        "ours": average,
        "std": stdev(known) if len(known) > 1 else np.nan,
        "seeds": len(ours),
        "difference": np.nan if reference is None else average - reference,
    }


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


def contradictions(number: int, tidy: pd.DataFrame) -> list[str]:
    """The figures that the paper's table prints and its own matrix contradicts beyond the rounding."""
    off = tidy[(tidy["published"] - tidy["recomputed"]).abs() > ROUNDING]
    return [
        f"Table {number} prints {line.published:.1f} for {line.row}, {line.column}; recomputed from its matrix it is "
        f"{line.recomputed:.2f}"
        for line in off.itertuples()
    ]


def matrices() -> dict[int, str]:
    """Which run stands behind each of the tables 24 to 42: `<model>/<method>`."""
    return {int(number): folder for number, folder in printed()["matrices"].items()}


def text_of(line: pd.Series, published_only: bool) -> str:
    """A cell as a reader sees it: ours / published / difference, with the gain in brackets where there is one."""

    def gain(side: str) -> str:
        value = line.get(f"{side} gain", np.nan)
        return "" if pd.isna(value) else f" ({number(value, '+')})"

    theirs = "" if pd.isna(line["published"]) else number(line["published"]) + gain("published")
    if published_only:
        return theirs
    if not theirs:
        theirs = UNDEFINED if pd.isna(line["recomputed"]) else number(line["recomputed"]) + RECOMPUTED
    deviation = "" if pd.isna(line["std"]) else f" ± {line['std']:.1f}"
    return f"{number(line['ours'])}{deviation}{gain('ours')} / {theirs} / {number(line['difference'], '+')}"


def pivot(tidy: pd.DataFrame, published_only: bool) -> pd.DataFrame:
    """The paper's own layout: texts, a row a task or method, a column a round or figure.

    Of the published side alone rows and columns without any text are left out.
    """
    texts = tidy.assign(text=tidy.apply(text_of, axis=1, published_only=published_only))
    wide = texts.pivot(index="row", columns="column", values="text")
    wide = wide.reindex(index=tidy["row"].unique(), columns=tidy["column"].unique()).fillna("")
    if published_only:
        wide = wide.loc[(wide != "").any(axis=1), (wide != "").any(axis=0)]
    return wide.rename_axis(index="", columns=None)


PREAMBLE = r"""\documentclass{article}
\usepackage[landscape,margin=1.5cm]{geometry}
\usepackage{booktabs}
\setlength{\belowcaptionskip}{1ex}
\pagestyle{empty}
% ours, and below it published / difference
\newcommand{\both}[2]{\begin{tabular}[t]{@{}r@{}}#1\\\footnotesize #2\end{tabular}}
\begin{document}
"""


def latex(frame: pd.DataFrame, caption: str) -> str:
    """A whole LaTeX document with a booktabs table; `caption` begins with the table's number, `Table 30: `."""
    table, _, text = caption.removeprefix("Table ").partition(": ")
    first = metrics.FIGURES[0].name
    body = frame.map(_cell).rename(index=_escape, columns=_escape).rename_axis(index=None)
    if body.map(lambda cell: cell.startswith("\\both")).any(axis=None):
        text += "; each cell: ours, below it published / difference"
    if frame.map(lambda cell: RECOMPUTED in cell).any(axis=None):
        text += f"; {RECOMPUTED} not printed in the paper but recomputed"
    tabular = body.to_latex(escape=False, column_format="l" + "r" * len(frame.columns))
    tabular = tabular.replace(f"\n{first} &", f"\n\\midrule\n{first} &")
    return (
        f"{PREAMBLE}\\setcounter{{table}}{{{int(table) - 1}}}\n\\begin{{table}}\n\\centering\n"
        f"\\caption{{{_escape(text)}}}\n{tabular}\\end{{table}}\n\\end{{document}}"
    )


def _cell(text: str) -> str:
    """A cell as LaTeX; one of three figures in two lines, else eight columns with deviations would not fit a page."""
    ours, slash, rest = map(_escape, text.partition(" / "))
    return f"\\both{{{ours}}}{{{rest}}}" if slash else ours


def _escape(text: str) -> str:
    for plain, escaped in (("%", "\\%"), ("_", "\\_"), ("±", "$\\pm$"), ("–", "--"), ("†", "$^\\dagger$")):
        text = text.replace(plain, escaped)
    return re.sub(r"(?<!\w)-(?=\d)", "$-$", text)


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


def notes(number: int, tidy: pd.DataFrame, options: argparse.Namespace) -> list[str]:
    """What there is to say of the table, a line each: contradictions, the mark for what is recomputed, missing runs."""
    lines = contradictions(number, tidy)
    if options.published:
        return lines
    if (tidy["published"].isna() & tidy["recomputed"].notna()).any():
        lines.append(f"Marked {RECOMPUTED}: the paper does not print it; recomputed from its matrix.")
    if ((tidy["seeds"] == 0) & tidy["published"].notna()).any():
        benchmark = options.benchmark or default_benchmark(options.model)
        setting = f" MODEL={options.model} BENCHMARK={benchmark}" if options.model else ""
        makes = "" if options.tried else f": make table{number}{setting} makes them"
        lines.append(f"runs are missing ({UNDEFINED}){makes}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m trace_cl.tables", description="A table of the paper, from runs.")
    parser.add_argument("number", type=int, help="3, 4, 7, or 24 to 42")
    parser.add_argument("--model", help="whose runs stand beside the published ones (default: the table's own model)")
    parser.add_argument("--benchmark", help="on what (default: embedded for tiny, else trace)")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--format", choices=["md", "csv", "latex"], default="md")
    parser.add_argument("--published", action="store_true", help="the published figures alone")
    parser.add_argument("--tried", action="store_true", help="the runs were just tried: not how to make those missing")
    options = parser.parse_args(arguments)
    try:
        if options.number not in (3, 4, 7, *matrices()):
            raise UserError(f"there is no table {options.number} here: choose 3, 4, 7, or 24 to 42")
        for name in ("model", "benchmark"):
            if (value := getattr(options, name)) is not None:
                check_name(f"--{name}", value)
        if not options.published:
            folder_of_runs(options.runs)
        tidy, caption = make(options.number, options.model, options.benchmark, options.runs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.format == "csv":
        tidy.to_csv(sys.stdout, index=False)
    else:
        wide = pivot(tidy, options.published)
        if options.format == "latex":
            print(latex(wide, caption))
        else:
            cells = "" if options.published else " Each cell: ours / published / difference."
            print(f"**{caption}.**{cells}\n\n{markdown(wide)}")
    if said := notes(options.number, tidy, options):
        if options.format == "md":
            print()  # or Markdown takes the notes for rows
        print("\n".join(said), file=sys.stdout if options.format == "md" else sys.stderr)
    return 0
