"""A table as it is shown: in Markdown, as a whole LaTeX document, or tidy (a line a figure) as CSV."""

import re
import sys
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from trace_cl import metrics
from trace_cl.analysis.text import RECOMPUTED, UNDEFINED, markdown, number

ROUNDING = 0.051
"""A printed figure and the one recomputed from its matrix, both rounded to 0.1, may differ by as much."""


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


def contradictions(number: int, tidy: pd.DataFrame, origin: str = "its matrix") -> list[str]:
    """The figures that the paper's table prints and what they are computed from contradicts beyond the rounding."""
    off = tidy[(tidy["published"] - tidy["recomputed"]).abs() > ROUNDING]
    return [
        f"Table {number} prints {line.published:.1f} for {line.row}, {line.column}; recomputed from {origin} it is "
        f"{line.recomputed:.2f}"
        for line in off.itertuples()
    ]


class Shown(NamedTuple):
    """A table: tidy; in its own layout, of texts; what it is; what there is to say of it, a line each; and whether runs
    of ours that belong there are missing."""

    tidy: pd.DataFrame
    wide: pd.DataFrame
    caption: str
    notes: list[str]
    missing: bool = False


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


def heading(text: str) -> str:
    """The first cell of a row that stands over a group of rows."""
    return f"**{text}**"


def show(table: Shown, form: str) -> None:
    """Print it as `md`, `csv` or `latex`; where the notes are no part of the form, on stderr."""
    if form == "csv":
        table.tidy.to_csv(sys.stdout, index=False)
    elif form == "latex":
        print(latex(table.wide, table.caption))
    else:
        cells = " Each cell: ours / published / difference." if of_three(table.wide) else ""
        print(f"**{table.caption}.**{cells}\n\n{markdown(table.wide)}")
    if table.notes:
        if form == "md":
            print()  # or Markdown takes the notes for rows
        print("\n".join(table.notes), file=sys.stdout if form == "md" else sys.stderr)


def of_three(frame: pd.DataFrame) -> bool:
    """Whether its cells hold ours, what is published, and the difference."""
    return bool(frame.map(lambda cell: " / " in cell).any(axis=None))


LONGEST, WIDEST = 40, 10
"""Rows that fit on a page, and columns in the document's own size."""

PREAMBLE = r"""\documentclass{article}
\usepackage[landscape,margin=1.5cm]{geometry}
\usepackage{booktabs,longtable}
\setlength{\belowcaptionskip}{1ex}
\pagestyle{empty}
% ours, and below it published / difference
\newcommand{\both}[2]{\begin{tabular}[t]{@{}r@{}}#1\\\footnotesize #2\end{tabular}}
\begin{document}
"""


def latex(frame: pd.DataFrame, caption: str) -> str:
    """A whole LaTeX document with a booktabs table, over several pages where it is long; `caption` begins with the
    table's number, `Table 30: `, where it is one of the paper's."""
    number, text = re.fullmatch(r"(?:Table (\d+): )?(.*)", caption, re.DOTALL).groups()  # type: ignore[union-attr]
    first = metrics.FIGURES[0].name
    body = frame.map(_cell).rename(index=_escape, columns=_escape).rename_axis(index=None)
    if body.map(lambda cell: cell.startswith("\\both")).any(axis=None):
        text += "; each cell: ours, below it published / difference"
    if frame.map(lambda cell: RECOMPUTED in cell).any(axis=None):
        text += f"; {RECOMPUTED} not printed in the paper but recomputed"
    columns = "l" + "".join("l" if frame[column].str.match("[A-Za-z]").any() else "r" for column in frame)
    long = len(frame) > LONGEST
    tabular = body.to_latex(
        escape=False, column_format=columns, longtable=long, caption=_escape(text) if long else None
    )
    tabular = re.sub(rf"\n({first} &|\\textbf)", r"\n\\midrule\n\1", tabular)
    tabular = tabular.replace("\\midrule\n\\midrule", "\\midrule")
    if long:
        tabular = f"\\scriptsize\n\\setlength{{\\tabcolsep}}{{3pt}}\n{tabular}"
    else:
        size = "\\footnotesize\n" if len(frame.columns) > WIDEST else ""
        tabular = f"\\begin{{table}}\n\\centering\n\\caption{{{_escape(text)}}}\n{size}{tabular}\\end{{table}}\n"
    counter = f"\\setcounter{{table}}{{{int(number) - 1}}}\n" if number else ""
    return f"{PREAMBLE}{counter}{tabular}\\end{{document}}"


def _cell(text: str) -> str:
    """A cell as LaTeX; one of three figures in two lines, else eight columns with deviations would not fit a page."""
    ours, slash, rest = map(_escape, text.partition(" / "))
    return f"\\both{{{ours}}}{{{rest}}}" if slash else ours


def _escape(text: str) -> str:
    for plain, escaped in (
        ("%", "\\%"),
        ("_", "\\_"),
        ("±", "$\\pm$"),
        ("–", "--"),
        ("−", "$-$"),
        ("†", "$^\\dagger$"),
        ("Δ", "$\\Delta$"),
    ):
        text = text.replace(plain, escaped)
    text = re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", text)
    return re.sub(r"(?<!\w)-(?=\d)", "$-$", text)
