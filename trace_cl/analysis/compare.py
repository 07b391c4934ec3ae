"""Runs side by side: `python -m trace_cl.compare RUN RUN …` prints what differs between them, as Markdown.

Is a difference in OP, BWT or another figure more than the choice of test examples? A paired bootstrap answers from the
stored predictions (`bootstrap`, which says what its intervals cover and what they do not).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pandas as pd

from trace_cl import metrics
from trace_cl.analysis.baselines import further
from trace_cl.analysis.bootstrap import DRAWS, LEVEL, Floats, interval, resampled
from trace_cl.analysis.stored import StoredRun
from trace_cl.analysis.text import UNDEFINED, legend, markdown, table
from trace_cl.errors import UserError
from trace_cl.records.files import is_free


def kind(run: StoredRun) -> dict[str, object]:
    """What two runs must share to be compared."""
    return {
        "benchmarks": run.config.get("benchmark.name"),
        "tasks": " ".join(run.tasks if not run.complete else sorted(run.tasks)),
        "variants of the metrics": run.config.get("metrics.variant"),
    }


def read_runs(folders: Sequence[Path]) -> list[StoredRun]:
    """Raises UserError for runs that cannot be compared."""
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise UserError("name two or more different runs")
    first, *others = runs = [StoredRun.at(folder) for folder in folders]
    for run in runs:
        for name in ("predictions", "config.yaml"):
            if not (run.folder / name).exists():
                raise UserError(
                    f"{run.folder} holds no {name}, as published runs do not: a comparison needs every example's score"
                )
    for run in others:
        for what, value in kind(run).items():
            if value != kind(first)[what]:
                raise UserError(
                    f"{run.folder} and {first.folder} cannot be compared: their {what} differ "
                    f"({value}, {kind(first)[what]})"
                )
    return runs


def short_names(folders: Sequence[Path]) -> list[str]:
    """What tells the folders apart, with the method at least: their paths below a folder they all lie in."""
    above = os.path.commonpath([folder.resolve().parents[1] for folder in folders])
    return [str(folder.resolve().relative_to(above)) for folder in folders]


def with_interval(value: float, ends: Floats, sign: str = "") -> str:
    """A value and its interval, one decimal."""
    return f"{value:{sign}z.1f} [{ends[0]:{sign}z.1f}, {ends[1]:{sign}z.1f}]"


def with_gains(runs: Sequence[StoredRun], rounds: int) -> pd.DataFrame:
    """A row a figure: of each run after the round, and then what it is above the first run's, with intervals. Left out
    are figures that no run has."""
    values = [run.figures | further(run) for run in runs]
    scores = resampled(runs, rounds)
    lines = {}
    for figure in (*metrics.FIGURES, *metrics.FURTHER):
        here = [run[figure.name][rounds - 1] for run in values]
        if figure in metrics.FIGURES or any(value is not None for value in here):
            known = [
                None if value is None else (value, run.figure(figure)) for value, run in zip(here, scores, strict=True)
            ]
            lines[figure.name] = [*map(own, known), *(gain(each, known[0]) for each in known[1:])]
    names = short_names([run.folder for run in runs])
    gains = [f"{name} gain" for name in names[1:]] if len(runs) > 2 else ["gain"]
    return pd.DataFrame.from_dict(lines, orient="index", columns=[*names, *gains]).rename_axis(index="figure")


Known = tuple[float, Floats] | None
"""A figure, and what it is on every resample; None where it is undefined."""


def own(figure: Known) -> str:
    """A figure with its interval."""
    return UNDEFINED if figure is None else with_interval(figure[0], interval(figure[1]))


def gain(figure: Known, first: Known) -> str:
    """What a figure is above another on the same resamples, with its interval."""
    if figure is None or first is None:
        return UNDEFINED
    return with_interval(figure[0] - first[0], interval(figure[1] - first[1]), "+")


def config_differences(runs: Sequence[StoredRun]) -> pd.DataFrame:
    """The keys in which the runs' configurations differ, a column a run; not where things lie and how fast they go."""
    keys = dict.fromkeys(key for run in runs for key in run.config if not is_free(key))
    lines = {key: [str(run.config.get(key, "–")) for run in runs] for key in keys}
    lines["data.sha256"] = [_short_checksum(run) for run in runs]
    different = {key: line for key, line in lines.items() if len(set(line)) > 1}
    frame = pd.DataFrame.from_dict(different, orient="index", columns=short_names([run.folder for run in runs]))
    return frame.rename_axis(index="key")


def _short_checksum(run: StoredRun) -> str:
    """What tells the data that a run was made of from others'."""
    return sha256("\n".join(run.experiment.get("data.sha256", [])).encode()).hexdigest()[:8]


def matrix_difference(run: StoredRun, first: StoredRun, rounds: int) -> pd.DataFrame:
    """The run's scores and figures less the first one's in the paper's layout, with the sign."""
    pairs = zip(run.rows[:rounds], first.rows[:rounds], strict=True)
    rows = [[here - there for here, there in zip(*pair, strict=True)] for pair in pairs]
    figures = {
        name: [
            None if here is None or there is None else here - there
            for here, there in zip(values[:rounds], first.figures[name][:rounds], strict=True)
        ]
        for name, values in run.figures.items()
    }
    return table(rows, run.tasks, figures, sign="+")


def told(runs: Sequence[StoredRun], names: Sequence[str]) -> str:
    """Which of the runs have to be told the task, in one sentence; nothing where no run has."""
    those = [name for name, run in zip(names, runs, strict=True) if run.needs_task_id]
    have = "has" if len(those) == 1 else "have"
    return f" To answer, {' and '.join(those)} {have} to be told which task a text belongs to." if those else ""


def compare(folders: Sequence[Path]) -> str:
    """The comparison as Markdown. Raises UserError for runs that cannot be compared."""
    first, *others = runs = read_runs(folders)
    names = short_names(folders)
    rounds = min(len(run.matrix) for run in runs)
    differences = config_differences(runs)
    parts = [f"# {', '.join(names[1:])} against {names[0]}"]
    for name, run in zip(names, runs, strict=True):
        if len(run.matrix) < len(run.tasks):
            parts.append(
                f"{name} is unfinished: {len(run.matrix)} of {len(run.tasks)} rounds. "
                f"All is compared after round {rounds}."
            )
    parts += [
        f"## Figures after round {rounds}",
        markdown(with_gains(runs, rounds)),
        f"In brackets {LEVEL:.0%} intervals of a bootstrap over the test examples ({DRAWS:,} draws). Gain: above "
        f"{names[0]}, with the same examples drawn for both. A gain whose interval excludes 0 is more than the choice "
        f"of test examples explains; how much another training seed would change it does not say. "
        f"{legend((*metrics.FIGURES, *metrics.FURTHER))}{told(runs, names)}",
        "## Configuration",
        "Nothing differs." if differences.empty else markdown(differences),
    ]
    for name, run in zip(names[1:], others, strict=True):
        if run.tasks != first.tasks:
            continue
        parts += [f"## Scores of {name} less those of {names[0]}", markdown(matrix_difference(run, first, rounds))]
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m trace_cl.compare", description="Runs side by side, as Markdown.")
    parser.add_argument(
        "runs", metavar="RUN", type=Path, nargs="+", help="a run's folder; the first is compared against"
    )
    options = parser.parse_args(arguments)
    try:
        print(compare(options.runs))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
