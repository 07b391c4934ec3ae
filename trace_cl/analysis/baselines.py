"""The scores that figures hold a matrix against: the base model's, and those of the runs `single_task` and `joint`.

Such a run is looked for beside the other runs of the same model on the same benchmark: of the same seed, with the same
tasks (in any order), data and settings of the benchmark and of scoring.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from shlex import join
from typing import Any

from trace_cl import identity, metrics
from trace_cl.analysis.stored import StoredRun, natural

SHARED = ("benchmark", "evaluation", "metrics", "model")
"""The settings that make scores of two runs scores of the same thing; the order of the tasks is none of them."""


@dataclass(frozen=True)
class Baseline:
    """Scores that another run is held against: by that one's tasks, in its order, the round of `run` that is meant (0:
    the base model)."""

    run: StoredRun
    rounds: Mapping[str, int]

    @property
    def scores(self) -> list[float]:
        """One a task."""
        return [self.run.score(round, task) for task, round in self.rounds.items()]


def baselines_of(run: StoredRun) -> dict[str, Baseline]:
    """What there is to hold the run against, by what a figure needs. Raises UserError for a damaged run."""
    found = {}
    if all(task in run.zero_shot for task in run.tasks):
        found["zero_shot"] = Baseline(run, dict.fromkeys(run.tasks, 0))
    for need, round_of in _ROUNDS.items():
        if (base := _beside(run, need)) is not None:
            found[need] = Baseline(base, {task: round_of(base, task) for task in run.tasks})
    return found


_ROUNDS: dict[str, Callable[[StoredRun, str], int]] = {
    "single_task": lambda base, task: base.tasks.index(task) + 1,
    "joint": lambda base, task: len(base.tasks),
}
"""The strategies whose runs are looked for, and the round in which such a run has learned a task."""


def further(run: StoredRun) -> dict[str, list[float | None]]:
    """The figures of other papers after every finished round, by name; None where one is undefined, or what it needs
    is missing."""
    scores = {need: base.scores for need, base in baselines_of(run).items()}
    return metrics.figures(run.matrix, run.untrained, metrics.FURTHER, scores)


def missing(run: StoredRun) -> dict[str, str]:
    """By figure the command that makes the run it is held against, where there is none."""
    if run.published or run.untrained:
        return {}
    found = baselines_of(run)
    wanted = {figure.name: figure.needs for figure in metrics.FURTHER if figure.needs in _ROUNDS}
    return {name: _command(run, need) for name, need in wanted.items() if need is not None and need not in found}


def _beside(run: StoredRun, strategy: str) -> StoredRun | None:
    """The finished run of this strategy that shares most settings with the run; None where there is none."""
    if run.published or not run.written:
        return None
    others = []
    for path in run.folder.parent.parent.glob(f"{strategy}*/seed{run.seed}/matrix.csv"):
        other = StoredRun.at(path.parent)
        is_one = other.complete and other.strategy == strategy and not other.contradictions
        if is_one and _shared(other) == _shared(run):
            others.append(other)
    return min(others, key=lambda other: (_different(run, other), natural(other.method)), default=None)


def _shared(run: StoredRun) -> dict[str, Any]:
    """What makes the run's scores comparable with others'."""
    settings = {key: value for key, value in run.experiment.items() if key.partition(".")[0] in SHARED}
    lines = run.experiment.get("data.sha256", [])
    return settings | {
        identity.ORDER: sorted(run.tasks),
        "data": [line for line in lines if line.partition("  ")[2] in run.tasks],
    }


def _different(run: StoredRun, other: StoredRun) -> int:
    return sum(run.experiment.get(key) != value for key, value in other.experiment.items())


def _command(run: StoredRun, strategy: str) -> str:
    """What makes such a run of this strategy, with this one's settings of the benchmark, of training and of scoring."""
    different = identity.differences(run.written, run.own)
    if sorted(run.tasks) == sorted(run.own.get(identity.ORDER, [])):
        different.pop(identity.ORDER, None)  # a bound is the same in every order
    words = ["benchmark=" + run.benchmark, "model=" + run.model, "seed=" + run.seed]
    if root := run.written.get("benchmark.root"):
        words.append(f"benchmark.root={root}")
    words += [
        f"{key}={_written(value)}" for key, value in different.items() if key.partition(".")[0] in (*SHARED, "training")
    ]
    return join(["python", "-m", "trace_cl", f"strategy={strategy}", *words])


def _written(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else "null" if value is None else str(value)
