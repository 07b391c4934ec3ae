"""Runs side by side: `python -m trace_cl.compare RUN RUN …` prints what differs between them, as Markdown.

Is a difference in OP or BWT more than the choice of test examples? A paired bootstrap answers from the stored
predictions: percentile intervals after Efron and Tibshirani (1993, *An Introduction to the Bootstrap*, chapter 13), the
paired form after Koehn (2004, *Statistical Significance Tests for Machine Translation Evaluation*). A draw takes of
every task as many test examples as it has, with replacement: the same examples for all runs, because an example that is
hard for one run is hard for the others, and the same for all rounds, because S[T,i] and S[i,i] are scores of the same
examples.

What the interval covers: other test examples of the same kind. What it does not cover: another training seed, another
order of the tasks, other training data. The runs are held fixed, so two runs that differ in nothing but their seed may
well lie further apart than the interval says; only several seeds tell a method from luck (`trace_cl.results`). A task
whose examples all have one and the same score, as after complete forgetting, adds no width. With n examples a task the
interval comes out narrower by √((n−1)/n), which is 1% at 50.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trace_cl.analysis.stored import StoredRun
from trace_cl.analysis.text import UNDEFINED, legend, markdown, table
from trace_cl.errors import UserError
from trace_cl.records.files import is_free

Floats = NDArray[np.float64]

DRAWS = 10_000
SEED = 0
LEVEL = 0.95
BLOCK = 1_000
"""Draws made at once: memory for this many times a task's examples."""


def kind(run: StoredRun) -> dict[str, object]:
    """What two runs must share to be compared."""
    return {
        "benchmarks": run.config.get("benchmark.name"),
        "tasks": " ".join(run.tasks),
        "variants of the metrics": run.config.get("metrics.variant"),
    }


def examples(run: StoredRun, round: int, task: str) -> tuple[list[tuple[int, str]], Floats]:
    """The test examples of a task (index and reference), and what each scored after the round (0 to 100).

    Raises UserError where they were not kept.
    """
    lines = run.predictions(round, task)
    if not lines:
        raise UserError(
            f"{run.folder}/predictions/round{round}/{task}.jsonl is missing: a comparison needs every example's score"
        )
    return [(line["index"], line["reference"]) for line in lines], np.array([line["score"] for line in lines])


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


def contributions(runs: Sequence[StoredRun], rounds: int) -> list[Floats]:
    """For each task what each of its examples adds to OP and BWT: n × runs × 2.

    The first of the two is the example's score after the last round, the second what that is above its score after the
    task's own round. Their means over the examples, then over the tasks, are OP and BWT. Raises UserError where the
    runs (or the rounds of one) were scored on different examples.
    """
    tasks = []
    for number, task in enumerate(runs[0].tasks[:rounds], start=1):
        expected, _ = examples(runs[0], rounds, task)
        columns = []
        for run in runs:
            scores = {}
            for round in (number, rounds):
                here, scores[round] = examples(run, round, task)
                if here != expected:
                    raise UserError(
                        f"{run.folder} was scored on other test examples of {task} in round {round} than "
                        f"{runs[0].folder} in round {rounds}: there is nothing to pair"
                    )
                if not np.isclose(scores[round].mean(), run.rows[round - 1][number - 1], rtol=0, atol=1e-6):
                    raise UserError(
                        f"{run.folder}: the figure of {task} in round {round} is not the mean of its examples' scores "
                        "(as F1 over classes is none): leave its runs out"
                    )
            columns.append(np.stack([scores[rounds], scores[rounds] - scores[number]], axis=-1))
        tasks.append(np.stack(columns, axis=1))
    return tasks


def estimate(tasks: Sequence[Floats]) -> Floats:
    """Mean over the tasks of the mean over the examples: of tasks of n × … the array …."""
    means: Floats = np.mean([values.mean(axis=0) for values in tasks], axis=0)
    return means


def bootstrap(tasks: Sequence[Floats], draws: int = DRAWS, seed: int = SEED) -> Floats:
    """The estimate on `draws` resamples: of tasks of n × … an array draws × …; each task is resampled by itself."""
    generator = np.random.default_rng(seed)
    means: Floats = np.mean([_resampled_means(values, draws, generator) for values in tasks], axis=0)
    return means


def _resampled_means(values: Floats, draws: int, generator: np.random.Generator) -> Floats:
    """The mean over the n examples of n × …, on as many examples drawn with replacement: draws × …."""
    n, flat = len(values), values.reshape(len(values), -1)
    blocks = []
    for start in range(0, draws, BLOCK):
        size = min(BLOCK, draws - start)
        drawn = generator.integers(n, size=(size, n)) + n * np.arange(size)[:, np.newaxis]
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        blocks.append(times @ flat / n)
    return np.concatenate(blocks).reshape(draws, *values.shape[1:])


def interval(samples: Floats) -> Floats:
    """The percentile interval at LEVEL, of samples draws × …: the array 2 × …, lower and upper ends."""
    return np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)


def short_names(folders: Sequence[Path]) -> list[str]:
    """What tells the folders apart, with the method at least: their paths below a folder they all lie in."""
    above = os.path.commonpath([folder.resolve().parents[1] for folder in folders])
    return [str(folder.resolve().relative_to(above)) for folder in folders]


def with_interval(value: float, ends: Floats, sign: str = "") -> str:
    """A value and its interval, one decimal."""
    return f"{value:{sign}z.1f} [{ends[0]:{sign}z.1f}, {ends[1]:{sign}z.1f}]"


def with_gains(runs: Sequence[StoredRun], rounds: int) -> pd.DataFrame:
    """OP and BWT of each run after the round, and what they are above the first run's, each with its interval."""
    tasks = contributions(runs, rounds)
    values, samples = estimate(tasks), bootstrap(tasks)
    ends = interval(samples)
    gains, gain_ends = values - values[0], interval(samples - samples[:, :1])
    columns: dict[str, list[str]] = {}
    for k, figure in enumerate(("OP", "BWT")):
        defined = [run.figures[figure][rounds - 1] is not None for run in runs]
        columns[figure] = [
            with_interval(values[r, k], ends[:, r, k]) if defined[r] else UNDEFINED for r in range(len(runs))
        ]
        columns[f"{figure} gain"] = [""] + [
            with_interval(gains[r, k], gain_ends[:, r, k], "+") if defined[0] and defined[r] else UNDEFINED
            for r in range(1, len(runs))
        ]
    return pd.DataFrame(columns, index=pd.Index(short_names([run.folder for run in runs]), name="run"))


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
        f"## OP and BWT after round {rounds}",
        markdown(with_gains(runs, rounds)),
        f"In brackets {LEVEL:.0%} intervals of a bootstrap over the test examples ({DRAWS:,} draws). Gain: above "
        f"{names[0]}, with the same examples drawn for both. A gain whose interval excludes 0 is more than the choice "
        f"of test examples explains; how much another training seed would change it does not say. {legend()}"
        f"{told(runs, names)}",
        "## Configuration",
        "Nothing differs." if differences.empty else markdown(differences),
    ]
    for name, run in zip(names[1:], others, strict=True):
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
