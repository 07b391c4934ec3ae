"""A run as it lies on disk, ours or published: the one reader of run directories, and the one order of methods.

A run of ours lies in `<runs>/<benchmark>/<model>/<method>/seed<k>`, one of the paper's in
`trace_cl/published/<model>/<method>`. Only the matrix is read at once, all else when it is first asked for; what is
damaged is a UserError that names the file.
"""

import glob
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self, TypeVar

import pandas as pd

from trace_cl import identity, metrics
from trace_cl.analysis.losses import Losses, reference_losses
from trace_cl.analysis.text import reported
from trace_cl.config import schema_defaults
from trace_cl.errors import UserError
from trace_cl.names import current_name
from trace_cl.records.files import PUBLISHED, flatten, is_loss, is_score, read_json, read_matrix, read_yaml, whole
from trace_cl.records.predictions import kept_answers, read_prompts

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
    def of(cls, folder: Path, matrix: pd.DataFrame) -> Self:
        """The run in a folder, named by where it lies, with this matrix."""
        there = folder.resolve()
        if there.is_relative_to(PUBLISHED):
            model, method = there.parts[-2:]
            return cls(folder, PAPER_BENCHMARK, model, method, "", matrix)
        benchmark, model, method, seed = ["", "", "", "", *Path(os.path.abspath(folder)).parts][-4:]
        return cls(folder, benchmark, model, method, seed.removeprefix("seed"), matrix)

    @classmethod
    def at(cls, folder: Path) -> Self:
        """The run in a folder, named by where it lies. Raises UserError where there is none, or a damaged matrix."""
        path = folder / "matrix.csv"
        if not whole(path, path.exists):
            raise UserError(
                f"{folder} is no run with a finished round: it holds no matrix.csv; name folders such as "
                "runs/embedded/tiny/seqft/seed1"
            )
        return cls.of(folder, read_matrix(path))

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
        said: Mapping[str, Any] = self.summary.get("printed", {}) if self.published else {}
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
    def needs_task_id(self) -> bool | None:
        """Whether the method has to be told which task a text belongs to when it answers; None where nobody said."""
        return self.summary.get("needs_task_id")

    @property
    def seconds(self) -> float | None:
        """What training and scoring took; None where nobody said."""
        said: dict[str, float] = self.summary.get("seconds", {})
        return sum(said.values()) if said else None

    @cached_property
    def extra_bytes(self) -> int | None:
        """What the method keeps besides weights, gradients and optimizer, and adds to the model, in the round where
        that is most; None where nobody said."""
        kept = [self.record(t).get("extra_bytes") for t in self.matrix.index]
        return max((sum(each.values()) for each in kept if each), default=None)

    @property
    def source(self) -> str:
        """Where a published run is printed; empty for a run of ours."""
        return str(self.summary.get("source", "")) if self.published else ""

    @property
    def zero_shot(self) -> dict[str, float]:
        """The base model's scores by task; empty where it was not asked."""
        return dict(self.summary.get("zero_shot", {}))

    @property
    def intervals(self) -> dict[str, list[float]]:
        """By figure the ends of its bootstrap interval after the last round; empty where it was not told."""
        return dict(self.summary.get("intervals", {}))

    @property
    def general_loss(self) -> float | None:
        """The loss on general text after the newest round; None where it was not measured."""
        return next(iter(self.summary.get("general_loss", [])[-1:]), None)

    def abilities(self, round: int) -> dict[str, float]:
        """General abilities after the round (0: the base model's), from 0 to 100: what `trace_cl.abilities` has
        measured of the run, or, where it has never measured any, what the run itself has scored, which may bear the
        same names; empty where that is nothing."""
        measured = self.folder / "abilities"
        if whole(measured, measured.is_dir):
            return measured_in(measured / f"round{round}")
        return dict(self.record(round).get("abilities", {}))

    @cached_property
    def reference_losses(self) -> Losses:
        """The loss of the references by round, the base model's first, and task."""
        return reference_losses(self.record(0), [self.record(t) for t in self.matrix.index])

    def score(self, round: int, task: str) -> float:
        """The task's score after a finished round (0: the base model's); NaN where it was not scored."""
        if round == 0:
            return self.zero_shot.get(task, math.nan)
        return float(self.matrix.to_numpy()[round - 1, self.tasks.index(task)])

    def scores(self, task: str) -> dict[int, float]:
        """A task's scores by round; round 0 is the base model."""
        base = {0: self.zero_shot[task]} if task in self.zero_shot else {}
        column = self.tasks.index(task)
        return base | {t: row[column] for t, row in enumerate(self.rows, start=1) if column < t}

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json; empty where there is none."""
        return self._read("summary.json", lambda path: whole(path, lambda: self._plausible(read_json(path))), {})

    def _plausible(self, summary: dict[str, Any]) -> dict[str, Any]:
        """The summary. Raises ValueError for what could be no summary of this matrix."""
        rounds = set(range(1, len(self.tasks) + 1))
        fits: dict[str, Callable[[Any], bool]] = {
            "general_loss": lambda value: isinstance(value, list) and all(map(is_loss, value)),
            "intervals": lambda value: isinstance(value, dict) and all(map(is_interval, value.values())),
            "method": lambda value: isinstance(value, str) and value != "",
            "untrained_rounds": lambda value: (
                isinstance(value, list) and all(type(t) is int and t in rounds for t in value)
            ),
            "zero_shot": lambda value: isinstance(value, dict) and all(map(is_score, value.values())),
            "needs_task_id": lambda value: isinstance(value, bool),
            "seconds": lambda value: isinstance(value, dict) and all(map(is_number, value.values())),
        }
        for key, is_right in fits.items():
            if key in summary and not is_right(summary[key]):
                raise ValueError(f"its {key} is none")
        return summary

    @cached_property
    def written(self) -> dict[str, Any]:
        """config.yaml with keys `a.b.c`, classes by today's names; empty where there is none, as in a published run."""
        return self._read("config.yaml", lambda path: modern(dict(flatten(read_yaml(path)))), {})

    @cached_property
    def config(self) -> dict[str, Any]:
        """`written` as today's version would have: keys that came later at their defaults; empty where that is."""
        return self.written and schema_defaults() | self.written

    @property
    def strategy(self) -> str:
        """The strategy's name, with which the method's begins."""
        return str(self.summary.get("method", self.method))

    @cached_property
    def own(self) -> dict[str, Any]:
        """The settings of the run if nobody had overridden any."""
        return whole(self.folder / "config.yaml", lambda: identity.own_settings(self.written, self.strategy))

    @cached_property
    def experiment(self) -> dict[str, Any]:
        """What its numbers depend on besides the seed: the settings, and the data; empty where they are not known."""
        path = self.folder / "data.sha256"
        data: list[str] = self._read(path.name, lines_of, [])
        return identity.experiment(self.written, self.own) | {path.name: data} if self.written else {}

    @cached_property
    def contradictions(self) -> list[str]:
        """Settings that are not what the run's place says; none where they are not known, or it is a published one."""
        if not self.written or self.published:
            return []
        said = {"benchmark.name": self.benchmark, "model.name": self.model, identity.SEED: self.seed}
        wrong = [key for key, value in said.items() if str(self.written.get(key, value)) != value]
        if self.method == self.strategy:
            return wrong + list(identity.differences(self.written, self.own))
        return wrong if self.method.startswith(f"{self.strategy}-") else [*wrong, "strategy"]

    def record(self, round: int) -> dict[str, Any]:
        """What happened in the round (0: the base model's scores); empty where it was not recorded."""
        return self._read(
            f"rounds/round{round}.json", lambda path: whole(path, lambda: plausible_round(read_json(path))), {}
        )

    def predictions(self, round: int, task: str) -> list[dict[str, Any]]:
        """The answers behind S[round, task], a line an example: index, prediction, reference, score.

        Empty where they were not kept.
        """
        return kept_answers(self.folder, round, task)

    def prompts(self, task: str) -> dict[int, str]:
        """The task's prompts by index; empty where they were not kept, as by runs of old."""
        return self._read(f"prompts/{task}.jsonl", read_prompts, {})

    def _read(self, name: str, read: Callable[[Path], T], absent: T) -> T:
        path = self.folder / name
        return read(path) if whole(path, path.exists) else absent


def default_benchmark(model: str | None) -> str:
    """What a model's runs are of, unless said otherwise."""
    return "embedded" if model == "tiny" else PAPER_BENCHMARK


def folder_of_runs(runs: Path) -> Path:
    """The folder. Raises UserError where there is none."""
    if not whole(runs, runs.is_dir):
        raise UserError(f"there is no folder {runs}: give --runs the one that holds the runs")
    return runs


def find(
    runs: Path, benchmark: str | None = None, model: str | None = None, method: str | None = None
) -> list[StoredRun]:
    """Our runs with a finished round (of all benchmarks, models, methods where none is named), in order.

    One that lies where others' results belong is left out, with a word. Raises UserError for one that is damaged.
    """
    parts = ["*" if name is None else glob.escape(name) for name in (benchmark, model, method)]
    paths = glob.glob(os.path.join(*parts, "seed*", "matrix.csv"), root_dir=runs)
    return in_place(sorted((StoredRun.at((runs / path).parent) for path in paths), key=lambda run: run.order))


def in_place(runs: Iterable[StoredRun]) -> list[StoredRun]:
    """The runs whose settings are what their place says; the others are named on stderr.

    Such are runs of earlier versions, whose place did not tell settings apart, and what was moved by hand.
    """
    found = []
    for run in runs:
        if run.contradictions:
            print(f"not at its place ({', '.join(run.contradictions)}), left out: {run.folder}", file=sys.stderr)
        else:
            found.append(run)
    return found


def agreeing(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """The runs, if they are seeds of one experiment. Raises UserError naming two that differ in more than the seed."""
    for run in runs[1:]:
        there, here = runs[0].experiment, run.experiment
        if different := sorted(key for key in there.keys() | here.keys() if there.get(key) != here.get(key)):
            raise UserError(
                f"{runs[0].folder} and {run.folder} differ in more than the seed ({', '.join(different[:5])}"
                f"{', …' if len(different) > 5 else ''}): there is no average of them, so move one of the two away"
            )
    return list(runs)


def finished(runs: Path, model: str, method: str) -> list[StoredRun]:
    """The finished runs of a method in a benchmark's folder, seed by seed.

    Raises UserError where they differ in more than the seed.
    """
    return agreeing([run for run in find(runs.parent, runs.name, model, method) if run.complete])


def find_published(model: str = "*", method: str = "*") -> list[StoredRun]:
    """The paper's runs, in order."""
    paths = PUBLISHED.glob(f"{model}/{method}/matrix.csv")
    return sorted((StoredRun.at(path.parent) for path in paths), key=lambda run: run.order)


def by_method(runs: Iterable[StoredRun]) -> list[list[StoredRun]]:
    """The runs, seed by seed, of each method of a model on a benchmark, in order; published ones are apart.

    Raises UserError where those of a method differ in more than the seed.
    """
    groups: dict[tuple[object, ...], list[StoredRun]] = {}
    for run in sorted(runs, key=lambda run: run.order):
        groups.setdefault((run.benchmark, run.model, run.published, run.method), []).append(run)
    return [agreeing(group) for group in groups.values()]


def last(runs: Sequence[StoredRun], figure: str) -> list[float | None]:
    """A figure after the newest round, run by run."""
    return [run.figures[figure][-1] for run in runs]


def is_number(value: object) -> bool:
    """Whether it is a number that JSON may hold, and finite."""
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def is_interval(value: object) -> bool:
    """Whether it is two numbers, the lower one first."""
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value)) and value[0] <= value[1]


def plausible_round(record: dict[str, Any]) -> dict[str, Any]:
    """A round's record. Raises ValueError for what could be none."""
    extra = record.get("extra_bytes", {})
    if not isinstance(extra, dict) or not all(map(is_number, extra.values())):
        raise ValueError("its extra_bytes is none")
    abilities = record.get("abilities", {})
    if not isinstance(abilities, dict) or not all(map(is_score, abilities.values())):
        raise ValueError("its abilities are none")
    losses = record.get("reference_loss", {})
    if not isinstance(losses, dict) or not all(map(is_loss, losses.values())):
        raise ValueError("its reference_loss is none")
    return record


def measured_in(folder: Path) -> dict[str, float]:
    """The abilities that `trace_cl.abilities` has measured, by name, from 0 to 100; empty where there is none. Raises
    UserError for a file that holds no score."""

    def score(path: Path) -> float:
        measured = read_json(path)
        if not is_score(measured.get("score")):
            raise ValueError("its score is none")
        return float(measured["score"])

    return {path.stem: whole(path, partial(score, path)) for path in sorted(folder.glob("*.json"))}


def lines_of(path: Path) -> list[str]:
    """A text's lines, sorted. Raises UserError where it is none."""
    return whole(path, lambda: sorted(path.read_text(encoding="utf-8").splitlines()))


def modern(config: dict[str, Any]) -> dict[str, Any]:
    """An earlier version's configuration, its classes by today's names."""
    return {key: current_name(str(value)) if key.endswith("._target_") else value for key, value in config.items()}
