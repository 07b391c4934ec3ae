"""What a run will take, measured: the run itself in small, in a folder that is gone afterwards.

Every round learns a few of its own batches, with its own half, memories and penalties, and puts its checkpoint by; of
each task one batch is scored. Two things are not known before: how long the answers of a trained model are (they are
taken to be as long as the longest reference of the batch), and what a task's answers look like once it is forgotten.
Starting up, and the report of each round, are not in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from time import perf_counter
from typing import Any, cast

from trace_cl.data.batches import within_budget
from trace_cl.data.benchmark import Task
from trace_cl.plan import tokens
from trace_cl.records.journal import CHECKPOINT
from trace_cl.records.loggers import NoLogger
from trace_cl.rounds import Run
from trace_cl.strategies.base import Learner, Phase, Round, Strategy
from trace_cl.training.model import count

FEW, MORE, SMALL = 3, 12, 1e13
"""Steps of each phase that are made; more where a step of so few operations is soon done, and its time uneven."""


class Shortened:
    """A strategy that learns from a few of each phase's batches alone. Everything else is the strategy's own.

    `marks` are the times at which this round's first step began and each step ended.
    """

    def __init__(self, strategy: Strategy, parameters: int) -> None:
        self.strategy = strategy
        self.parameters = parameters
        self.marks: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.strategy, name)

    def phases(self, round: Round) -> list[Phase]:
        return [replace(p, examples=self._few(p, round), epochs=1) for p in self.strategy.phases(round)]

    def _few(self, phase: Phase, round: Round) -> list[Any]:
        step = 6 * self.parameters * tokens([phase]) / phase.steps(round.global_batch) if phase.examples else 0
        wanted = (FEW if step > SMALL else MORE) * round.global_batch
        drawn = Random(f"calibrate/{round.seed}/{round.number}/{phase.name}")
        return drawn.sample(phase.examples, min(wanted, len(phase.examples)))

    def begin_round(self, round: Round, learner: Learner) -> None:
        self.strategy.begin_round(round, learner)
        self.marks = [perf_counter()]

    def after_step(self, round: Round, learner: Learner) -> None:
        self.strategy.after_step(round, learner)
        self.marks.append(perf_counter())


@dataclass
class Calibration:
    """The seconds of each round by what they are spent on; those of scoring before any round; and bytes on the disk."""

    rounds: list[dict[str, float]]
    zero_shot: float
    disk: dict[str, int]

    def added_to(self, plan: dict[str, Any]) -> dict[str, Any]:
        """A plan with the hours of each round, and of all."""
        rounds = [
            planned | {"hours": {part: seconds / 3600 for part, seconds in taken.items()}}
            for planned, taken in zip(plan["rounds"], self.rounds, strict=True)
        ]
        total = {part: sum(taken[part] for taken in self.rounds) / 3600 for part in ("training", "scoring", "saving")}
        return plan | {"rounds": rounds, "hours": total | {"zero_shot": self.zero_shot / 3600}, "disk": self.disk}


def calibrate(run: Run) -> Calibration:
    """Go through a run that has just been opened in a folder of its own; all ranks call it in step."""
    strategy = Shortened(run.strategy, count(set(run.model.parameters())))
    small = replace(run, strategy=cast(Strategy, strategy), logger=NoLogger())
    small.progress.bar.disable = True
    settings = run.config.evaluation
    untrained = {}
    if settings.zero_shot or settings.tasks == "all":
        untrained = {task.name: scored(small, 0, task) for task in run.benchmark.tasks}
    asked, rounds = dict(untrained), list[dict[str, float]]()
    for round in run.rounds:
        began = perf_counter()
        small.train(round)
        record = small.standing.trained
        assert record is not None
        saving = perf_counter() - began - record["seconds"]
        training = whole_round(small, round, run.strategy.phases(round), record["seconds"], strategy.marks)
        small.standing = replace(small.standing, rounds=(*small.standing.rounds, record), trained=None)
        task = run.benchmark.tasks[round.number - 1]
        asked[task.name] = scored(small, round.number, task)
        scoring = sum(
            asked[task.name]
            for task in run.scored(round.number)
            if not (task in round.past and run.strategy.unchanged(round, task))
        )
        rounds.append({"training": training, "scoring": scoring, "saving": saving})
    began = perf_counter()
    small.general()
    general = perf_counter() - began
    for taken in rounds[: not settings.zero_shot] if run.strategy.leaves_model else rounds:
        taken["scoring"] += general
    zero_shot = sum(untrained.values()) + general if settings.zero_shot else 0.0
    return Calibration(rounds, zero_shot, disk(small, sum(bool(run.strategy.phases(round)) for round in run.rounds)))


def whole_round(small: Run, round: Round, phases: Sequence[Phase], seconds: float, marks: Sequence[float]) -> float:
    """What a round of all its phases takes, of which a few steps took `seconds` with all that comes before and after:
    this once, and each phase as long for a token as its steps were. A round's first step, which also warms up, counts
    only where its phase has no other."""
    if not phases:
        return seconds
    steps = zip(small.journal.steps(round.number), pairwise(marks), strict=True)
    made = [(line["phase"], line["tokens"], end - begin) for line, (begin, end) in steps]
    whole = seconds - (marks[-1] - marks[0])
    for phase in phases:
        own = [(size, taken) for name, size, taken in made if name == phase.name]
        if made[0][0] == phase.name and len(own) > 1:
            own = own[1:]
        if own:
            whole += tokens([phase]) * sum(taken for _, taken in own) / sum(size for size, _ in own)
    return whole


def scored(small: Run, round: int, task: Task) -> float:
    """The seconds in which a task is scored after the round (0: before any), by one batch on each rank."""
    lengths = [len(prompt) + task.answer_tokens for prompt in task.prompts]
    batches = within_budget(lengths, small.config.evaluation.tokens_per_batch)
    middle = batches[max(0, len(batches) // 2 - small.ranks.size // 2) :][: small.ranks.size]
    rows = [row for batch in middle for row in batch]
    few = replace(
        task,
        prompts=[task.prompts[row] for row in rows],
        questions=[task.questions[row] for row in rows],
        references=[task.references[row] for row in rows],
        indices=[task.indices[row] for row in rows],
    )
    if round:
        encode = small.answerer(task).encode
        longest = max(len(encode(reference)) + 1 for reference in few.references)
        few = replace(few, answer_tokens=min(task.answer_tokens, longest))
    began = perf_counter()
    small.asked_for(round, few)
    small.reference_loss(round, few, unchanged=False)
    return (perf_counter() - began) * len(batches) / len(middle)


def disk(small: Run, learning: int) -> dict[str, int]:
    """Bytes of a checkpoint, and the most that stands on the disk at a time: where one takes the place of another both
    do, and so do two states of the middle of a round."""
    settings = small.config.checkpoint
    files = (small.journal.folder / CHECKPOINT).rglob("*")
    checkpoint = sum(file.stat().st_size for file in files if file.is_file())
    inside = settings.every_minutes is not None or settings.every_steps is not None
    state = 12 * count(set(small.model.parameters()), trainable=True) if inside else 0
    copies = learning if small.config.checkpoints == "all" else 0
    return {"checkpoint": checkpoint, "most": (2 + copies) * checkpoint + 2 * state}
