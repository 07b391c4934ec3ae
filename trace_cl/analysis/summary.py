"""What has been measured: `python -m trace_cl.results` prints the figures of every method's finished runs.

A row a method; several seeds as mean ± standard deviation (of the sample, n − 1). Unfinished runs are left out.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean

import pandas as pd

from trace_cl import metrics
from trace_cl.analysis.further import by_seeds, commands
from trace_cl.analysis.stored import StoredRun, by_method, folder_of_runs, in_place, last
from trace_cl.analysis.text import legend, markdown, over_seeds, size
from trace_cl.errors import UserError
from trace_cl.paths import check_name
from trace_cl.records.files import whole

COSTS = {
    "seconds": "training and scoring, a seed",
    "extra memory": "what a method keeps besides weights, gradients and optimizer, and adds to the model, at its most",
    "task identity": "whether it has to be told, when it answers, which task a text belongs to",
}
"""What stands beside the figures, and what it means."""

TOLD = {True: "yes", False: "no", None: ""}


def collect(folders: Iterable[Path]) -> tuple[list[list[StoredRun]], list[Path]]:
    """The finished runs of one model on one benchmark, given by their directories, seed by seed of each method; and the
    unfinished ones.

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
    return by_method(in_place(runs)), unfinished


def tabulate(methods: Iterable[Sequence[StoredRun]]) -> pd.DataFrame:
    """The figures after the last round, and what each method takes."""
    names = [figure.name for figure in metrics.FIGURES]
    lines = [
        [seeds[0].method, str(len(seeds)), *(over_seeds(last(seeds, name)) for name in names), *costs(seeds)]
        for seeds in methods
    ]
    return pd.DataFrame(lines, columns=["method", "seeds", *names, *COSTS]).set_index("method")


def costs(seeds: Sequence[StoredRun]) -> list[str]:
    """What a method's runs took, and what it asks for: texts by COSTS, empty where the runs do not say."""
    seconds = [run.seconds for run in seeds if run.seconds is not None]
    kept = [run.extra_bytes for run in seeds if run.extra_bytes is not None]
    return [
        f"{mean(seconds):.0f}" if seconds else "",
        size(max(kept)) if kept else "",
        TOLD[seeds[0].needs_task_id],
    ]


def render(table: pd.DataFrame) -> str:
    """The table in Markdown, with what its columns mean."""
    return f"{markdown(table)}\n\n{legend()} {'; '.join(f'{name}: {meaning}' for name, meaning in COSTS.items())}."


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
        methods, unfinished = collect(folder.glob("*/seed*"))
        for path in unfinished:
            print(f"not finished, left out: {path}", file=sys.stderr)
        if not methods:
            raise UserError(f"no finished run under {folder}: start one with python -m trace_cl")
        others, wanted = by_seeds(methods), commands(methods)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(render(tabulate(methods)))
    if not others.empty:
        print(f"\n**Further figures**\n\n{markdown(others)}\n\n{legend(metrics.FURTHER)}")
    if wanted:
        print("\n".join(["\nFWT against single-task and intransigence need runs that are missing:\n", *wanted]))
    return 0
