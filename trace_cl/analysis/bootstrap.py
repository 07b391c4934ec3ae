"""What the choice of test examples makes of figures: a bootstrap over every example's scores.

Percentile intervals after Efron and Tibshirani (1993, *An Introduction to the Bootstrap*, chapter 13), the paired form
after Koehn (2004, *Statistical Significance Tests for Machine Translation Evaluation*). A draw takes of every task as
many test examples as it has, with replacement: the same examples for all runs, because an example that is hard for one
run is hard for the others, and the same for all rounds, because S[T,i] and S[i,i] are scores of the same examples.

What the interval covers: other test examples of the same kind. What it does not cover: another training seed, another
order of the tasks, other training data. The runs are held fixed, so two runs that differ in nothing but their seed may
well lie further apart than the interval says; only several seeds tell a method from luck (`trace_cl.results`). A task
whose examples all have one and the same score, as after complete forgetting, adds no width. With n examples a task the
interval comes out narrower by √((n−1)/n), which is 1% at 50.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trace_cl.analysis.baselines import baselines_of
from trace_cl.analysis.stored import StoredRun
from trace_cl.errors import UserError
from trace_cl.metrics import Figure

Floats = NDArray[np.float64]

DRAWS = 10_000
SEED = 0
LEVEL = 0.95
BLOCK = 1_000
"""Draws made at once: memory for this many times a task's examples."""


@dataclass(frozen=True)
class Resampled:
    """A run's scores on many resamples of the test examples, draws × t, NaN where nothing was scored: by round, and of
    its baselines by what a figure needs."""

    rows: dict[int | str, Floats]

    def figure(self, figure: Figure) -> Floats:
        """The figure on every resample: draws. Raises KeyError where there is no such baseline."""
        rounds = sorted(row for row in self.rows if isinstance(row, int))
        matrix = np.stack([self.rows[t] for t in rounds], axis=1)
        return figure.of(matrix) if figure.needs is None else figure.of(matrix, self.rows[figure.needs])


class Cell(NamedTuple):
    """One score of one of several runs: `row` and `task` say where it belongs, and `source` and `round` whose examples
    it is the mean of."""

    number: int
    row: int | str
    task: str
    source: StoredRun
    round: int


def resampled(runs: Sequence[StoredRun], rounds: int, draws: int = DRAWS, seed: int = SEED) -> list[Resampled]:
    """Each run's scores after so many rounds, on the same examples for all: the runs are of the same tasks.

    Raises UserError where scores of examples are missing, or runs (or rounds of one) were scored on different ones.
    """
    cells = [cell for number, run in enumerate(runs) for cell in _cells(number, run, rounds)]
    found: list[dict[int | str, Floats]] = [{} for _ in runs]
    of_tasks = {task: [cell for cell in cells if cell.task == task] for task in runs[0].tasks[:rounds]}
    means = resample([_scores(of_task) for of_task in of_tasks.values()], draws, seed)
    for of_task, values in zip(of_tasks.values(), means, strict=True):
        for column, cell in enumerate(of_task):
            row = found[cell.number].setdefault(cell.row, np.full((draws, rounds), np.nan))
            row[:, runs[cell.number].tasks.index(cell.task)] = values[:, column]
    return [Resampled(rows) for rows in found]


def intervals(run: StoredRun, figures: Sequence[Figure], values: Mapping[str, float | None]) -> dict[str, Floats]:
    """The interval of each figure after the run's newest round, by name, of those that have a value. Raises as
    `resampled`."""
    [scores] = resampled([run], len(run.rows))
    return {figure.name: interval(scores.figure(figure)) for figure in figures if values.get(figure.name) is not None}


def resample(tasks: Sequence[Floats], draws: int = DRAWS, seed: int = SEED) -> list[Floats]:
    """Of each task's examples, n × …, the means on as many drawn with replacement: draws × …; each by itself."""
    generator = np.random.default_rng(seed)
    return [_means(values, draws, generator) for values in tasks]


def _means(values: Floats, draws: int, generator: np.random.Generator) -> Floats:
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


def _cells(number: int, run: StoredRun, rounds: int) -> Iterator[Cell]:
    """Every score of the run until then, and of what it is held against."""
    baselines = baselines_of(run)
    for task in run.tasks[:rounds]:
        for t in range(1, rounds + 1):
            if not np.isnan(run.score(t, task)):
                yield Cell(number, t, task, run, t)
        for need, base in baselines.items():
            yield Cell(number, need, task, base.run, base.rounds[task])


def _scores(cells: Sequence[Cell]) -> Floats:
    """What each of the n examples of these cells' one task scored: n × cells."""
    expected, _ = examples(*cells[0][3:], cells[0].task)
    columns = []
    for cell in cells:
        here, scores = examples(cell.source, cell.round, cell.task)
        if here != expected:
            raise UserError(
                f"{cell.source.folder} was scored on other test examples of {cell.task} in round {cell.round} than "
                f"{cells[0].source.folder} in round {cells[0].round}: there is nothing to pair"
            )
        if not np.isclose(scores.mean(), cell.source.score(cell.round, cell.task), rtol=0, atol=1e-6):
            raise UserError(
                f"{cell.source.folder}: the figure of {cell.task} in round {cell.round} is not the mean of its "
                "examples' scores (as F1 over classes is none): leave its runs out"
            )
        columns.append(scores)
    return np.stack(columns, axis=-1)


def examples(run: StoredRun, round: int, task: str) -> tuple[list[tuple[int, str]], Floats]:
    """The test examples of a task (index and reference), and what each scored after the round (0 to 100).

    Raises UserError where they were not kept.
    """
    lines = run.predictions(round, task)
    if not lines:
        raise UserError(
            f"{run.folder}/predictions/round{round}/{task}.jsonl is missing: an interval needs every example's score"
        )
    return [(line["index"], line["reference"]) for line in lines], np.array([line["score"] for line in lines])
