"""What has been measured: `python -m trace_cl.results` prints the figures of every method's finished runs.

A row a method; several seeds as mean ± standard deviation (of the sample, n − 1). Unfinished runs are left out.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from trace_cl import metrics
from trace_cl.analysis.stored import StoredRun, by_method, folder_of_runs, in_place, last
from trace_cl.analysis.text import legend, markdown, over_seeds
from trace_cl.errors import UserError
from trace_cl.paths import check_name
from trace_cl.records.files import whole


def collect(folders: Iterable[Path]) -> tuple[pd.DataFrame, list[Path]]:
    """The table of one model's runs on one benchmark, given by their directories; and the unfinished ones of these.

    Raises UserError for a run that is damaged, and where seeds of one method differ in more than the seed.
    """
    runs, unfinished = [], []
    for folder in sorted(folders):
        path = folder / "matrix.csv"
        run = StoredRun.at(folder) if whole(path, path.exists) else None
        if run is not None and run.complete:
            runs.append(run)
        else:
            unfinished.append(folder)
    names = [figure.name for figure in metrics.FIGURES]
    lines = [
        [seeds[0].method, str(len(seeds)), *(over_seeds(last(seeds, name)) for name in names)]
        for seeds in by_method(in_place(runs))
    ]
    return pd.DataFrame(lines, columns=["method", "seeds", *names]).set_index("method"), unfinished


def render(table: pd.DataFrame) -> str:
    """The table in Markdown, with what its columns mean."""
    return f"{markdown(table)}\n\n{legend()}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m trace_cl.results", description="The figures of the finished runs.")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--benchmark", default="embedded")
    parser.add_argument("--model", default="tiny")
    options = parser.parse_args(arguments)
    try:
        check_name("--benchmark", options.benchmark)
        check_name("--model", options.model)
        folder = folder_of_runs(options.runs) / options.benchmark / options.model
        table, unfinished = collect(folder.glob("*/seed*"))
        for path in unfinished:
            print(f"not finished, left out: {path}", file=sys.stderr)
        if table.empty:
            raise UserError(f"no finished run under {folder}: start one with python -m trace_cl")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(render(table))
    return 0
