"""What has been measured: `python -m trace_cl.results` prints OP and BWT of every method's finished runs.

A row a method; several seeds as mean ± standard deviation (of the sample, n − 1). Unfinished runs are left out.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev

import pandas as pd

from trace_cl.analysis.report import markdown
from trace_cl.metrics import backward_transfer, overall_performance
from trace_cl.records.files import read_matrix

ORDER = ("seqft", "gem", "replay", "lora_seqft")
LEGEND = "OP: mean of the last row; BWT: divided by the number of tasks; learned: mean of the diagonal."


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation; a single value as it is."""
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def collect(folders: Iterable[Path]) -> tuple[pd.DataFrame, list[Path]]:
    """The table of one model's runs on one benchmark, given by their directories; and the unfinished ones of these."""
    lines, unfinished = [], []
    for method, seeds in groupby(sorted(folders, key=_place), key=lambda folder: folder.parent.name):
        finished: list[pd.DataFrame] = []
        for seed in seeds:
            path = seed / "matrix.csv"
            matrix = read_matrix(path) if path.exists() else None
            if matrix is not None and len(matrix) == len(matrix.columns):
                finished.append(matrix)
            else:
                unfinished.append(seed)
        if finished:
            figures = {
                "OP": spread([overall_performance(matrix) for matrix in finished]),
                "BWT": spread([backward_transfer(matrix) for matrix in finished]),
                "learned": spread([float(matrix.to_numpy().diagonal().mean()) for matrix in finished]),
            }
            lines.append({"method": method, "seeds": str(len(finished)), **figures})
    return pd.DataFrame(lines, columns=["method", "seeds", "OP", "BWT", "learned"]).set_index("method"), unfinished


def _place(folder: Path) -> tuple[int, str, str]:
    method, seed = folder.parts[-2:]
    strategy = method.partition("+")[0]
    return ORDER.index(strategy) if strategy in ORDER else len(ORDER), method, seed


def render(table: pd.DataFrame) -> str:
    """The table in Markdown, with what its columns mean."""
    return f"{markdown(table)}\n\n{LEGEND}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m trace_cl.results", description="OP and BWT of the finished runs.")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--benchmark", default="embedded")
    parser.add_argument("--model", default="tiny")
    options = parser.parse_args(arguments)
    folder = options.runs / options.benchmark / options.model
    table, unfinished = collect(folder.glob("*/seed*"))
    for path in unfinished:
        print(f"not finished, left out: {path}", file=sys.stderr)
    if table.empty:
        print(f"error: no finished run under {folder}: start one with python -m trace_cl", file=sys.stderr)
        return 2
    print(render(table))
    return 0
