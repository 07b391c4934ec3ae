"""The paper's tables from runs, beside the published figures: `python -m trace_cl.tables N`.

Tables 24 to 42 are matrices: a row a task, a column a round, then OP and BWT. Tables 3, 4 and 7 set OP and BWT of whole
runs side by side. A published run lies in `runs/published/` in the format of any other, and is read by the same code;
what it prints as OP and BWT is recomputed from its matrix.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trace_cl.analysis.report import markdown
from trace_cl.metrics import backward_transfer, overall_performance
from trace_cl.records.files import PUBLISHED, read_matrix

ROUNDING = 0.051
"""A printed figure and its own matrix, both rounded to 0.1, may differ by as much."""

STRATEGIES = {"seqft": "SeqFT", "gem": "GEM", "replay": "Replay", "lora_seqft": "LoraSeqFT"}
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
"""Tables 4 and 7: the name of each row, and the method whose run it is."""


@dataclass(frozen=True)
class Runs:
    """The finished runs of one method: their matrices, seed by seed (each T × T, NaN above the diagonal)."""

    matrices: list[pd.DataFrame]

    @classmethod
    def under(cls, folder: Path) -> "Runs":
        """The runs whose `matrix.csv` lies in `folder` or its `seed*` folders, if all their rounds are finished."""
        found = [read_matrix(path) for path in sorted([*folder.glob("matrix.csv"), *folder.glob("seed*/matrix.csv")])]
        return cls([matrix for matrix in found if len(matrix) == len(matrix.columns)])

    def figures(self) -> list[dict[tuple[str, str], float]]:
        """Of each run all figures by (row, column): (task, round), (OP, round), (BWT, round)."""
        collected = []
        for matrix in self.matrices:
            figures = {
                (str(task), str(t)): float(matrix[task].loc[t])
                for task in matrix.columns
                for t in matrix.index
                if not pd.isna(matrix[task].loc[t])
            }
            for t in matrix.index:
                figures["OP", str(t)] = overall_performance(matrix, int(t))
                figures["BWT", str(t)] = backward_transfer(matrix, int(t))
            collected.append(figures)
        return collected

    def last(self, figure: str) -> list[float]:
        """OP or BWT after the last round, run by run."""
        return [figures[figure, str(len(m))] for figures, m in zip(self.figures(), self.matrices, strict=True)]


def cell(row: str, column: str, published: Sequence[float], ours: Sequence[float]) -> dict[str, Any]:
    """One line of a tidy table: a published figure (at most one) and ours (one a seed), mean and spread."""
    mean = float(np.mean(ours)) if len(ours) else np.nan
    reference = published[0] if len(published) else np.nan
    return {
        "row": row,
        "column": column,
        "published": reference,
        "ours": mean,
        "std": float(np.std(ours, ddof=1)) if len(ours) > 1 else np.nan,
        "seeds": len(ours),
        "difference": mean - reference,
    }


def matrix_table(published: Runs, ours: Runs) -> pd.DataFrame:
    """Tables 24 to 42, tidy."""
    theirs, own = published.figures(), ours.figures()
    keys = dict.fromkeys(key for figures in (*theirs, *own) for key in figures)
    tasks = dict.fromkeys(row for row, _ in keys)
    order = [*(task for task in tasks if task not in ("OP", "BWT")), "OP", "BWT"]
    lines = [
        cell(row, column, [f[row, column] for f in theirs], [f[row, column] for f in own if (row, column) in f])
        for row, column in sorted(keys, key=lambda key: (order.index(key[0]), int(key[1])))
    ]
    return pd.DataFrame(lines)


def comparison(rows: dict[str, str], published: Path, ours: Path) -> pd.DataFrame:
    """OP and BWT of several methods of one model, tidy; `rows` gives each method's name in the table."""
    lines = []
    for name, method in rows.items():
        theirs, own = Runs.under(published / method), Runs.under(ours / method)
        lines += [cell(name, figure, theirs.last(figure), own.last(figure)) for figure in ("OP", "BWT")]
    return pd.DataFrame(lines)


def table3(models: dict[str, Path]) -> pd.DataFrame:
    """Table 3, tidy: `models` gives for each published model the folder of ours that stands beside it.

    The gain is HFT's figure less full fine-tuning's of the same strategy.
    """
    lines: list[dict[str, Any]] = []
    for model, ours in models.items():
        for strategy, name in STRATEGIES.items():
            theirs = {hft: Runs.under(PUBLISHED / model / (strategy + hft)) for hft in ("", "+hft")}
            own = {hft: Runs.under(ours / (strategy + hft)) for hft in ("", "+hft")}
            for figure in ("OP", "BWT"):
                pair = {
                    hft: cell(
                        f"{name} ({model})",
                        f"{figure} {'HFT' if hft else 'FFT'}",
                        theirs[hft].last(figure),
                        own[hft].last(figure),
                    )
                    for hft in ("", "+hft")
                }
                for side in ("published", "ours"):
                    pair["+hft"][f"{side} gain"] = pair["+hft"][side] - pair[""][side]
                lines += pair.values()
    return pd.DataFrame(lines)


def contradictions(number: int) -> list[str]:
    """The figures a table of the paper prints that its own matrix contradicts beyond the rounding."""
    folder = PUBLISHED / matrices()[number]
    printed = json.loads((folder / "summary.json").read_text())["printed"]
    [figures] = Runs.under(folder).figures()
    rounds = len(printed["OP"])
    pairs = [(f"OP after round {t}", printed["OP"][t - 1], figures["OP", str(t)]) for t in range(1, rounds + 1)]
    pairs.append(("BWT", printed["BWT"], figures["BWT", str(rounds)]))
    return [
        f"Table {number} prints {name} {said:.1f}, its matrix gives {is_:.2f}"
        for name, said, is_ in pairs
        if abs(said - is_) > ROUNDING
    ]


def matrices() -> dict[int, str]:
    """Which run stands behind each of the tables 24 to 42: `<model>/<method>`."""
    content = json.loads((PUBLISHED / "tables.json").read_text())["matrices"]
    return {int(number): folder for number, folder in content.items()}


def number(value: float, signed: bool = False) -> str:
    """One decimal; a dash for a figure that is not there."""
    return "–" if pd.isna(value) else f"{value:+.1f}" if signed else f"{value:.1f}"


def text_of(line: pd.Series, published_only: bool) -> str:
    """A cell as a reader sees it: ours / published / difference, with the gain in brackets where there is one."""

    def side(name: str) -> str:
        spread = f" ± {line['std']:.1f}" if name == "ours" and line["seeds"] > 1 else ""
        gain = line.get(f"{name} gain", np.nan)
        return number(line[name]) + spread + ("" if pd.isna(gain) else f" ({gain:+.1f})")

    if published_only:
        return side("published")
    return f"{side('ours')} / {side('published')} / {number(line['difference'], signed=True)}"


def pivot(tidy: pd.DataFrame, published_only: bool) -> pd.DataFrame:
    """The paper's own layout: texts, a row a task or method, a column a round or figure."""
    texts = tidy.assign(text=tidy.apply(text_of, axis=1, published_only=published_only))
    wide = texts.pivot(index="row", columns="column", values="text")
    wide = wide.reindex(index=tidy["row"].unique(), columns=tidy["column"].unique()).fillna("")
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
    number, _, text = caption.removeprefix("Table ").partition(": ")
    body = frame.map(_cell).rename(index=_escape, columns=_escape).rename_axis(index=None)
    if body.map(lambda cell: cell.startswith("\\both")).any(axis=None):
        text += "; each cell: ours, below it published / difference"
    tabular = body.to_latex(escape=False, column_format="l" + "r" * len(frame.columns))
    tabular = tabular.replace("\nOP &", "\n\\midrule\nOP &")
    return (
        f"{PREAMBLE}\\setcounter{{table}}{{{int(number) - 1}}}\n\\begin{{table}}\n\\centering\n"
        f"\\caption{{{_escape(text)}}}\n{tabular}\\end{{table}}\n\\end{{document}}"
    )


def _cell(text: str) -> str:
    """A cell as LaTeX; one of three figures in two lines, else eight columns with spreads would not fit a page."""
    ours, slash, rest = map(_escape, text.partition(" / "))
    return f"\\both{{{ours}}}{{{rest}}}" if slash else ours


def _escape(text: str) -> str:
    for plain, escaped in (("%", "\\%"), ("_", "\\_"), ("±", "$\\pm$"), ("–", "--")):
        text = text.replace(plain, escaped)
    return re.sub(r"(?<!\w)-(?=\d)", "$-$", text)


def make(number: int, model: str | None, benchmark: str | None, runs: Path) -> tuple[pd.DataFrame, str, list[str]]:
    """Table N, tidy; its caption; and what there is to say of it (missing runs, contradictions)."""
    benchmark = benchmark or ("embedded" if model == "tiny" else "trace")
    ours = runs / benchmark
    setting = (f" MODEL={model}" if model else "") + (f" BENCHMARK={benchmark}" if model else "")
    if number in matrices():
        published_model, method = matrices()[number].split("/")
        own = Runs.under(ours / (model or published_model) / method)
        tidy = matrix_table(Runs.under(PUBLISHED / published_model / method), own)
        caption, notes = f"Table {number}: {method}, {published_model}", contradictions(number)
    elif number == 3:
        tidy = table3({published: ours / (model or published) for published in MODELS})
        caption, notes = "Table 3: OP and BWT, full (FFT) and half (HFT) fine-tuning, gain in brackets", []
    else:
        tidy = comparison(COMPARED[number], PUBLISHED / MODELS[0], ours / (model or MODELS[0]))
        caption = {4: "Table 4: how the half is chosen", 7: "Table 7: how much learns, embeddings and head or not"}[
            number
        ]
        notes = []
    if ((tidy["seeds"] == 0) & tidy["published"].notna()).any():
        notes.append(f"runs are missing (–): make table{number}{setting} makes them")
    if model:
        caption += f"; ours: {model} on {benchmark}"
    return tidy, caption, notes


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    known = [3, 4, 7, *matrices()]
    parser = argparse.ArgumentParser(prog="python -m trace_cl.tables", description="A table of the paper, from runs.")
    parser.add_argument("number", type=int, help="3, 4, 7, or 24 to 42")
    parser.add_argument("--model", help="whose runs stand beside the published ones (default: the table's own model)")
    parser.add_argument("--benchmark", help="on what (default: embedded for tiny, else trace)")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--format", choices=["md", "csv", "latex"], default="md")
    parser.add_argument("--published", action="store_true", help="the published figures alone")
    options = parser.parse_args(arguments)
    if options.number not in known:
        print(f"error: there is no table {options.number} here: choose 3, 4, 7, or 24 to 42", file=sys.stderr)
        return 2
    tidy, caption, notes = make(options.number, options.model, options.benchmark, options.runs)
    if options.published:
        notes = [note for note in notes if "missing" not in note]
    if options.format == "csv":
        tidy.to_csv(sys.stdout, index=False)
    else:
        wide = pivot(tidy, options.published)
        if options.format == "latex":
            print(latex(wide, caption))
        else:
            cells = "" if options.published else " Each cell: ours / published / difference."
            print(f"**{caption}.**{cells}\n\n{markdown(wide)}")
    for note in notes:
        print(note, file=sys.stderr if options.format != "md" else sys.stdout)
    return 0
