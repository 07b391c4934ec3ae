"""A run as it lies on disk, ours or published: the one reader of run directories, and the one order of methods.

A run of ours lies in `<runs>/<benchmark>/<model>/<method>/seed<k>`, one of the paper's in
`trace_cl/published/<model>/<method>`. Only the matrix is read at once, all else when it is first asked for; what is
damaged is a UserError that names the file.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import pandas as pd
from yaml import YAMLError  # type: ignore[import-untyped]

from trace_cl import metrics
from trace_cl.analysis.text import reported
from trace_cl.config import schema_defaults
from trace_cl.errors import UserError
from trace_cl.names import current_name
from trace_cl.records.files import PUBLISHED, flatten, read_json, read_matrix, read_yaml
from trace_cl.records.predictions import read_lines

T = TypeVar("T")

STRATEGIES = {"seqft": "SeqFT", "gem": "GEM", "replay": "Replay", "lora_seqft": "LoraSeqFT"}
"""The paper's strategies in its order, with the names that it prints."""

PAPER_BENCHMARK = "trace"


def natural(name: str) -> list[str | int]:
    """A key that sorts 7b before 13b."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def method_order(method: str) -> tuple[object, ...]:
    """A key that sorts methods: the paper's strategies first, then others by name; HFT after its plain one, and after
    both their other settings."""
    strategy, variant = re.fullmatch(r"([^+-]*)(.*)", method, re.DOTALL).groups()  # type: ignore[union-attr]
    known = list(STRATEGIES).index(strategy) if strategy in STRATEGIES else len(STRATEGIES)
    return known, natural(strategy), natural(variant)


@dataclass(frozen=True, eq=False)
class StoredRun:
    """What a run left behind. `seed` is empty for a published one.

    `matrix` is rounds × tasks, indexed by round, NaN above the diagonal; it has at least one round.
    """

    folder: Path
    benchmark: str
    model: str
    method: str
    seed: str
    matrix: pd.DataFrame

    @classmethod
    def at(cls, folder: Path) -> Self:
        """The run in a folder, named by where it lies. Raises UserError where there is none, or a damaged matrix."""
        path = folder / "matrix.csv"
        if not path.exists():
            raise UserError(
                f"{folder} is no run with a finished round: it holds no matrix.csv; name folders such as "
                "runs/embedded/tiny/seqft/seed1"
            )
        matrix = whole(path, lambda: triangular(read_matrix(path)))
        there = folder.resolve()
        if there.is_relative_to(PUBLISHED):
            model, method = there.parts[-2:]
            return cls(folder, PAPER_BENCHMARK, model, method, "", matrix)
        benchmark, model, method, seed = ["", "", "", "", *Path(os.path.abspath(folder)).parts][-4:]
        return cls(folder, benchmark, model, method, seed.removeprefix("seed"), matrix)

    @property
    def published(self) -> bool:
        """Whether it is one of the paper's."""
        return not self.seed

    @property
    def name(self) -> str:
        """What tells the run from every other."""
        last = "published" if self.published else f"seed{self.seed}"
        return f"{self.benchmark}/{self.model}/{self.method}/{last}"

    @property
    def order(self) -> tuple[object, ...]:
        """Sorts runs: by benchmark and model, ours before the published, then by method and seed."""
        return self.benchmark, natural(self.model), self.published, method_order(self.method), natural(self.seed)

    @property
    def tasks(self) -> list[str]:
        """The tasks' names in the order they are learned."""
        return [str(task) for task in self.matrix.columns]

    @property
    def rows(self) -> list[list[float]]:
        """S, a row a finished round, row t with t scores from 0 to 100."""
        return [[float(score) for score in row[:t]] for t, row in enumerate(self.matrix.to_numpy(), start=1)]

    @property
    def complete(self) -> bool:
        """Whether every round is finished."""
        return len(self.matrix) == len(self.tasks)

    @cached_property
    def figures(self) -> dict[str, list[float | None]]:
        """OP, BWT and the others after every finished round, from the matrix; None where undefined."""
        return metrics.figures(self.matrix, self.untrained)

    @cached_property
    def printed(self) -> dict[str, list[float | None]]:
        """What the paper prints below the matrix of a published run, in the form of `figures`; empty for ours."""
        said: Mapping[str, Any] = self.summary.get("printed", {})
        unsaid: list[float | None] = [None] * (len(self.matrix) - 1)
        return {name: list(value) if isinstance(value, list) else [*unsaid, value] for name, value in said.items()}

    def text(self, figure: str, t: int) -> str:
        """A figure after round t as it is shown: of a published run what is printed, or else recomputed and marked."""
        return reported(self.figures, self.printed, figure, t)

    @property
    def untrained(self) -> list[int]:
        """The rounds in which nothing was learned."""
        return list(self.summary.get("untrained_rounds", []))

    @property
    def source(self) -> str:
        """Where a published run is printed; empty for a run of ours."""
        return str(self.summary.get("source", ""))

    @property
    def zero_shot(self) -> dict[str, float]:
        """The base model's scores by task; empty where it was not asked."""
        return dict(self.summary.get("zero_shot", {}))

    def scores(self, task: str) -> dict[int, float]:
        """A task's scores by round; round 0 is the base model."""
        base = {0: self.zero_shot[task]} if task in self.zero_shot else {}
        column = self.tasks.index(task)
        return base | {t: row[column] for t, row in enumerate(self.rows, start=1) if column < t}

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json; empty where there is none."""
        return self._read("summary.json", read_json, {})

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.yaml with keys `a.b.c`, as today's version would have written it; empty where there is none, as for a
        published run."""
        return self._read("config.yaml", lambda path: modern(dict(flatten(read_yaml(path)))), {})

    def record(self, round: int) -> dict[str, Any]:
        """What happened in the round (0: the base model's scores); empty where it was not recorded."""
        return self._read(f"rounds/round{round}.json", read_json, {})

    def predictions(self, round: int, task: str) -> list[dict[str, Any]]:
        """The answers behind S[round, task], a line an example: index, prediction, reference, score.

        Empty where they were not kept.
        """
        keys = ("index", "prediction", "reference", "score")
        return self._read(f"predictions/round{round}/{task}.jsonl", lambda path: with_keys(path, *keys), [])

    def prompts(self, task: str) -> dict[int, str]:
        """The task's prompts by index; empty where they were not kept, as by runs of old."""
        lines: list[dict[str, Any]] = self._read(
            f"prompts/{task}.jsonl", lambda path: with_keys(path, "index", "prompt"), []
        )
        return {line["index"]: line["prompt"] for line in lines}

    def _read(self, name: str, read: Callable[[Path], T], absent: T) -> T:
        path = self.folder / name
        return whole(path, lambda: read(path)) if path.exists() else absent


def whole(path: Path, read: Callable[[], T]) -> T:
    """What `read` gives. Raises UserError naming the file where its content is not what a run writes."""
    try:
        return read()
    except (OSError, ValueError, KeyError, TypeError, AssertionError, YAMLError) as error:
        [reason, *_] = [*str(error).splitlines(), type(error).__name__]
        raise UserError(f"{path} is damaged ({reason.strip()}): move the run away") from error


def triangular(matrix: pd.DataFrame) -> pd.DataFrame:
    """The matrix. Raises ValueError unless rounds 1, 2, … have each a score for every task seen."""
    if not len(matrix) or list(matrix.index) != list(range(1, len(matrix) + 1)) or len(matrix) > len(matrix.columns):
        raise ValueError("its rounds are not 1, 2, … up to the number of tasks")
    below = np.tril(np.ones(matrix.shape, dtype=bool))
    if not np.isfinite(matrix.to_numpy()[below]).all():
        raise ValueError("a score is missing on or below the diagonal")
    return matrix


def with_keys(path: Path, *keys: str) -> list[dict[str, Any]]:
    """The lines of a .jsonl file. Raises ValueError naming the first that lacks one of the keys."""
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        if missing := [key for key in keys if key not in line]:
            raise ValueError(f"line {number} has no {missing[0]}")
    return lines


def default_benchmark(model: str | None) -> str:
    """What a model's runs are of, unless said otherwise."""
    return "embedded" if model == "tiny" else PAPER_BENCHMARK


def find(runs: Path, benchmark: str = "*", model: str = "*", method: str = "*") -> list[StoredRun]:
    """Our runs with a finished round, in order. Raises UserError for one that is damaged."""
    paths = runs.glob(f"{benchmark}/{model}/{method}/seed*/matrix.csv")
    return sorted((StoredRun.at(path.parent) for path in paths), key=lambda run: run.order)


def find_published(model: str = "*", method: str = "*") -> list[StoredRun]:
    """The paper's runs, in order."""
    paths = PUBLISHED.glob(f"{model}/{method}/matrix.csv")
    return sorted((StoredRun.at(path.parent) for path in paths), key=lambda run: run.order)


def by_method(runs: Iterable[StoredRun]) -> list[list[StoredRun]]:
    """The runs, seed by seed, of each method of a model on a benchmark, in order; published ones are apart."""
    groups: dict[tuple[object, ...], list[StoredRun]] = {}
    for run in sorted(runs, key=lambda run: run.order):
        groups.setdefault((run.benchmark, run.model, run.published, run.method), []).append(run)
    return list(groups.values())


def last(runs: Sequence[StoredRun], figure: str) -> list[float | None]:
    """A figure after the newest round, run by run."""
    return [run.figures[figure][-1] for run in runs]


def modern(config: dict[str, Any]) -> dict[str, Any]:
    """An earlier version's configuration: keys that came later at their defaults, classes by today's names."""
    named = {key: current_name(value) if key.endswith("._target_") else value for key, value in config.items()}
    return schema_defaults() | named
