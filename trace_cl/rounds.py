"""The life of a run: for each task in turn, learn it, score all tasks seen so far, and write the row down.

One loop in one direction. Nothing reads back what it wrote but the journal, and the journal is what makes a run
resumable: weights and strategy state come from the checkpoint, every random draw from the seed, the round and the step.
Inside a round a run goes on by walking through the steps that are done without doing them.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from time import perf_counter
from typing import Any

import torch
from omegaconf import DictConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trace_cl import plan
from trace_cl.analysis import report
from trace_cl.analysis.abilities import abilities
from trace_cl.analysis.further import summarized
from trace_cl.analysis.losses import general_loss
from trace_cl.analysis.stored import StoredRun
from trace_cl.data.batches import answer_tokens, global_batches, shares
from trace_cl.data.benchmark import Benchmark, Task
from trace_cl.errors import UserError
from trace_cl.evaluation import Generator, guessing, score, settled_by, summarize
from trace_cl.likelihood import Unforeseen, mean_loss, reference_loss, share_written
from trace_cl.needs import size
from trace_cl.records.answers import Answers
from trace_cl.records.journal import CHECKPOINT, HALFWAY, Journal, Standing
from trace_cl.records.loggers import Logger, score_curves, training_curves
from trace_cl.records.predictions import Prediction, kept_answers
from trace_cl.records.progress import Progress
from trace_cl.records.seal import SEAL, unsealed
from trace_cl.records.terms import Terms
from trace_cl.records.terms import findings as findings_of_terms
from trace_cl.signals import ENDING, Stopped, signals
from trace_cl.strategies.base import Adaptable, Example, Held, Phase, Round, Strategy
from trace_cl.strategies.streams import stream
from trace_cl.training import halfway
from trace_cl.training.engine import Engine, RoundLearner
from trace_cl.training.failures import Step, stop_unless_finite
from trace_cl.training.model import (
    count,
    is_spread,
)
from trace_cl.training.ranks import Ranks, on_the_first

PICTURES = 60
"""Seconds between two drawings of a run's pictures at least: rounds of a small model are shorter. The last is drawn."""


@dataclass
class Run:
    """A run with everything at hand; the model's weights are what `standing` says of them, and `build_base` gives a
    model as the run begins with it. Without what the strategy adds its parameters take `base_bytes`."""

    config: DictConfig
    strategy: Strategy
    journal: Journal
    standing: Standing
    logger: Logger
    benchmark: Benchmark
    model: PreTrainedModel
    build_base: Callable[[], PreTrainedModel]
    base_bytes: int
    tokenizer: PreTrainedTokenizerBase
    engine: Engine
    ranks: Ranks

    def __post_init__(self) -> None:
        self.rounds = self.benchmark.rounds(self.config.seed, self.config.training.global_batch)
        self.answers = Answers(self.journal.folder / "answers" / f"rank{self.ranks.rank}.jsonl", self.stop_if_asked)
        self.put_by_at = perf_counter()
        self.next_pictures = 0.0
        planned = [plan.tokens(self.strategy.phases(round)) for round in self.rounds]
        scored = [[task.name for task in self.scored(round.number)] for round in self.rounds]
        self.progress = Progress(planned, scored, shown=self.ranks.first)
        for number in range(1, self.trained + 1):
            evaluated = number <= self.standing.finished
            self.progress.skip_round(number, planned[number - 1], evaluated)

    @property
    def trained(self) -> int:
        """The newest round that is trained, scored or not."""
        return self.standing.finished + (self.standing.trained is not None)

    def scored(self, round: int) -> Sequence[Task]:
        """The tasks that are scored after the round."""
        return self.benchmark.tasks[: None if self.config.evaluation.tasks == "all" else round]

    def steps(self, rounds: int) -> int:
        """The optimizer steps of the first `rounds` rounds."""
        phases = [phase for round in self.rounds[:rounds] for phase in self.strategy.phases(round)]
        return sum(phase.steps(self.config.training.global_batch) for phase in phases)

    def go(self) -> None:
        """Every round that is not finished yet."""
        if self.config.evaluation.zero_shot and self.standing.base is None and not self.trained:
            base = self.evaluate(0, self.benchmark.tasks)
            self.journal.write_round(0, base)
            self.commit(replace(self.standing, base=base))
            self.logger.log("round", 0, score_curves(base["scores"][self.config.metrics.variant]))
        for round in self.rounds[self.standing.finished :]:
            if self.standing.trained is None:
                self.taken_over(round)  # which refuses before the round is trained, not after
                self.train(round)
            self.finish(round)

    def commit(self, standing: Standing) -> None:
        """Let a round be finished."""
        self.journal.finish_round(standing)
        self.standing = standing
        self.answers.forget()
        self.stop_together()

    def train(self, round: Round) -> None:
        """Learn the round's task, and put the result where a resumed run finds it."""
        began = perf_counter()
        half = on_the_first(self.ranks, self.halfway)
        if self.strategy.begins_anew and self.trained:
            del self.model  # there may be no room for two
            self.model = self.build_base()
            self.engine.to_devices(self.model)
        self.journal.begin_steps(round.number, half["step"])
        torch.manual_seed(stream(self.config.seed, "round", round.number))
        plan.select_first(self.strategy, round, self.model)
        self.refuse_without_space(round)
        record = plan.plan_round(self.strategy, round, self.model, self.base_bytes, self.config.training.global_batch)
        self.terms = Terms(self.strategy.terms if round.past else ())
        for line in on_the_first(self.ranks, lambda: self.journal.steps(round.number)):
            self.terms.add(line)
        loss, logged = self.learn(round, half, began) if record["phases"] else (None, {})
        seconds = to_ms(half["seconds"] + perf_counter() - began)
        record |= {"final_loss": loss, "seconds": seconds, "strategy": logged, "terms": self.terms.record()}
        for finding in findings_of_terms(record):
            self.progress.warn(finding)
        self.journal.write_round(round.number, record)
        if record["phases"]:
            self.keep(round, record)
        self.standing = replace(self.standing, trained=record, halfway=None)

    def halfway(self) -> dict[str, Any]:
        """What the round has come to already."""
        nothing = {"step": 0, "seconds": 0.0}
        return nothing if self.standing.halfway is None else unsealed(self.standing.halfway / SEAL)

    def refuse_without_space(self, round: Round) -> None:
        """Raises UserError where the disk has no room for what the round will put by."""
        learning = count(set(self.model.parameters()), trainable=True)
        saved = learning if self.strategy.changes_architecture else count(set(self.model.parameters()))
        settings = self.config.checkpoint
        inside = settings.every_minutes is not None or settings.every_steps is not None
        # Weights, and AdamW's two moments, in fp32; for a while the last such state stands beside the new one.
        needed = saved * self.model.dtype.itemsize + inside * 2 * 12 * learning
        free = on_the_first(self.ranks, lambda: shutil.disk_usage(self.journal.folder).free)
        if free < needed:
            raise UserError(
                f"round {round.number} puts up to {size(needed)} by in {self.journal.folder}, and "
                f"{size(free)} are free: make room, or set checkpoint.every_minutes=null"
            )

    def learn(self, round: Round, half: dict[str, Any], began: float) -> tuple[float, dict[str, Any]]:
        """Train the round, or the rest of it; gives the last loss, and what the strategy has to say of the round."""
        answerer = self.answerer(self.benchmark.tasks[round.number - 1])
        learner = self.engine.train(self.model, self.strategy.loss, answerer)
        self.strategy.begin_round(round, learner)
        loss = self.take_steps(round, learner, half, began)
        torch.manual_seed(stream(self.config.seed, "end", round.number))
        logged = self.strategy.end_round(round, learner)
        learner.close()
        return loss, logged

    def keep(self, round: Round, record: dict[str, Any]) -> None:
        """Put what the round has made of the model and the strategy where a resumed run finds it."""
        weights = self.engine.weights(self.model)
        with self.journal.replacing(CHECKPOINT, lambda: {"round": round.number, "record": record}) as folder:
            if folder is not None:
                self.strategy.save_model(self.model, folder, weights=weights)
                self.tokenizer.save_pretrained(folder)
                self.strategy.save(folder)
        self.put_by_at = perf_counter()
        self.stop_together()

    def answerer(self, task: Task) -> Generator:
        """What answers a task's prompts."""
        return Generator(
            self.model,
            self.tokenizer,
            task.answer_tokens,
            self.config.evaluation.tokens_per_batch,
            self.ranks,
            learning_tokens=self.config.training.tokens_per_batch,
        )

    def batches(self, round: Round) -> Iterator[tuple[Phase, int, list[Example]]]:
        """The round's optimizer steps: what each learns from, and in which phase and epoch it does."""
        for phase in self.strategy.phases(round):
            for epoch in range(1, phase.epochs + 1):
                order = f"{self.config.seed}/{round.number}/{phase.name}/{epoch}"
                for batch in global_batches(phase.examples, self.config.training.global_batch, order):
                    yield phase, epoch, batch

    def take_steps(self, round: Round, learner: RoundLearner, half: dict[str, Any], began: float) -> float:
        """Every optimizer step of the round that is not done; gives the last loss. Raises UserError for a loss that is
        not finite."""
        training, before, done, loss = self.config.training, self.steps(round.number - 1), half["step"], math.nan
        last = self.steps(round.number) - before
        for step, (phase, epoch, batch) in enumerate(self.batches(round), start=1):
            if step > 1 and plan.select(self.strategy, round, step - 1, self.model):
                learner.change()
            if step <= done:
                self.progress.skip_step(sum(map(len, batch)))
                if step == done:
                    loss = half["loss"]
                    self.take_up(half, learner)
                continue
            started = perf_counter()
            torch.manual_seed(stream(self.config.seed, "step", round.number, step))
            at = Step(round, phase.name, epoch, step, batch)
            loss = learner.backward(batch)
            noted = told(loss, learner.noted)
            self.check({"loss": loss, **noted}, at, learner)
            logged = self.strategy.adjust_gradients(round, learner)
            self.check(logged, at, learner)
            norm = learner.step()
            self.check({"gradient's norm": norm}, at, learner)
            self.strategy.after_step(round, learner)
            seconds, tokens = perf_counter() - started, sum(map(len, batch))
            line = {
                "round": round.number,
                "phase": phase.name,
                "epoch": epoch,
                "step": step,
                "loss": loss,
                "lr": training.learning_rate,
                "gradient_norm": norm,
                "tokens": tokens,
                "answer_tokens": answer_tokens(batch),
                "seconds": to_ms(seconds),
                **noted,
                **logged,
            }
            self.terms.add(line)
            self.journal.add_step(line)
            self.logger.log("step", before + step, training_curves(line))
            self.progress.step(round.number, f"{epoch}/{phase.epochs}", loss, tokens, seconds)
            end, due = self.asked(step)
            if end or (due and step < last):
                about = {"round": round.number, "step": step, "loss": loss}
                self.put_by({**about, "seconds": half["seconds"] + perf_counter() - began}, learner)
            if end:
                raise Stopped(end)
        return loss

    def check(self, values: Mapping[str, Any], at: Step, learner: RoundLearner) -> None:
        """Raises UserError for numbers that are not finite."""
        stop_unless_finite(values, at, learner, self.journal.folder if self.journal.writes else None)

    def asked(self, step: int) -> tuple[int, bool]:
        """By which signal any rank was asked to end (0: none), and whether it is time to put by what there is."""
        settings, minutes = self.config.checkpoint, (perf_counter() - self.put_by_at) / 60
        due = (
            signals.checkpoint
            or (settings.every_steps is not None and step % settings.every_steps == 0)
            or (settings.every_minutes is not None and minutes >= settings.every_minutes)
        )
        words = torch.tensor([*(signals.end == each for each in ENDING), due], device=self.model.device)
        *ends, due = self.ranks.sum(words.int()).tolist()
        return max(each if word else 0 for each, word in zip(ENDING, ends, strict=True)), due > 0

    def put_by(self, about: dict[str, Any], learner: RoundLearner) -> None:
        """Write down what the round has come to."""
        held, steps = self.strategy.hold(), dict[str, int]()
        with self.journal.replacing(HALFWAY, lambda: {**about, "steps": steps, "values": held.values}) as folder:
            steps |= halfway.save(learner, held, folder)
        self.put_by_at = perf_counter()
        self.ranks.broadcast(None)  # no rank ends before it stands
        signals.put_by()

    def take_up(self, half: dict[str, Any], learner: RoundLearner) -> None:
        """Go on from what the round had come to."""
        assert self.standing.halfway is not None
        parts = halfway.load(learner, half["steps"], self.standing.halfway, self.ranks)
        self.strategy.resume(Held(half["values"], parts))

    def stop_if_asked(self) -> None:
        """End between two batches of answers, which are kept: each rank by itself, unless they answer in step."""
        if signals.checkpoint:
            signals.put_by()
        if signals.end and not is_spread(self.model):
            raise Stopped(signals.end)

    def stop_together(self) -> None:
        """End here if any rank was asked to."""
        if end := self.asked(0)[0]:
            raise Stopped(end)

    def finish(self, round: Round) -> None:
        """Score the tasks seen so far, and report. The row in the matrix comes last: with it the round is finished."""
        assert self.standing.trained is not None
        if self.standing.trained["phases"]:
            self.journal.checkpoint_made(round.number, keep=self.config.checkpoints == "all")
        record = self.standing.trained | self.evaluate(round.number, self.scored(round.number))
        standing = replace(self.standing, rounds=(*self.standing.rounds, record), trained=None)
        if self.ranks.first:
            self.journal.write_round(round.number, record)
            figures = self.report(standing)
            self.progress.say(f"\n{report.render(self.journal.rows(standing), self.journal.tasks, figures)}\n")
        self.commit(standing)

    def evaluate(self, round: int, tasks: Sequence[Task]) -> dict[str, Any]:
        """Score these tasks on every answer, and keep them all: those that cannot have changed are the last round's.

        Gives the mean scores by variant and task, the references' losses by task, and the time.
        """
        began = perf_counter()
        scores: dict[str, dict[str, float]] = {}
        losses: dict[str, float | None] = {}
        given = self.taken_over(self.rounds[round - 1]) if round else {}
        seen = tasks[:round] if round else tasks
        for task in tasks:
            self.progress.evaluating(round, task.name)
            predictions = given[task.name] if task.name in given else self.asked_for(round, task)
            self.journal.write_prompts(task.name, task.indices, task.questions)
            self.journal.write_predictions(round, task.name, predictions, self.config.metrics.variant)
            for variant, figure in summarize(task.metric, predictions, task.questions).items():
                scores.setdefault(variant, {})[task.name] = figure
            if task in seen:
                losses |= self.reference_loss(round, task, unchanged=task.name in given)
            self.progress.evaluated(round, task.name)
        known = self.known() if self.strategy.leaves_model else {}
        measured = {**({"reference_loss": losses} if losses else {}), **(known or self.general())}
        return {"scores": scores, **measured, "evaluation_seconds": to_ms(perf_counter() - began)}

    def reference_loss(self, round: int, task: Task, unchanged: bool) -> dict[str, float | None]:
        """The loss of the task's references, by its name: as the strategy has the prompts answered now, or that of the
        round before. Nothing where nobody wants it or it cannot be told."""
        if not self.config.evaluation.reference_loss:
            return {}
        if unchanged:
            before = self.standing.rounds[round - 2].get("reference_loss", {})
            return {name: loss for name, loss in before.items() if name == task.name}

        def ask(prompts: Sequence[list[int]], answerer: Adaptable) -> None:
            if round:
                self.strategy.answer(task, prompts, answerer)
            else:
                answerer.generate(prompts)

        try:
            return {task.name: reference_loss(ask, task.prompts, task.references, self.answerer(task))}
        except Unforeseen:
            return {}

    def known(self) -> dict[str, Any]:
        """What `general` gave when it was last asked; nothing where it was not."""
        before = self.standing.rounds[-1] if self.standing.rounds else self.standing.base or {}
        return {name: before[name] for name in ("general_loss", "abilities") if name in before}

    def general(self) -> dict[str, Any]:
        """What is measured of the model as it is now besides its tasks: the loss on general text (None where that is no
        number), and general abilities. Nothing where the benchmark has no such thing."""
        texts, exercises, tokens = (
            self.benchmark.general,
            self.benchmark.abilities,
            self.config.training.tokens_per_batch,
        )
        return {
            **({"general_loss": mean_loss(self.model, texts, tokens, self.ranks)} if texts else {}),
            **({"abilities": share_written(self.model, exercises, tokens, self.ranks)} if exercises else {}),
        }

    def asked_for(self, round: int, task: Task) -> list[Prediction]:
        """A task's answers now, each rank its share of the examples; before any round (0) those of the model alone."""
        mine = shares([len(prompt) for prompt in task.prompts], self.ranks.size)[self.ranks.rank]
        answerer = self.answerer(task)
        answerer = replace(
            answerer,
            guess=guessing(task.prompts, [answerer.encode(text) for text in task.references]),
            settled=settled_by(task.metric, task.references),
            kept=self.answers.of(f"{round}/{task.name}"),
        )
        prompts = [task.prompts[i] for i in mine]
        with suppress(Stopped):  # the others have answers to give yet
            answers = self.strategy.answer(task, prompts, answerer) if round else answerer.generate(prompts)
        self.stop_together()
        scored = score(
            task.metric,
            [task.indices[i] for i in mine],
            answers,
            [task.references[i] for i in mine],
            [task.questions[i] for i in mine],
        )
        return sorted(chain(*self.ranks.gather(scored)), key=lambda prediction: prediction.index)

    def taken_over(self, round: Round) -> dict[str, list[Prediction]]:
        """By task the answers of the round before that this one cannot change. Raises as `given`."""
        past = [task for task in self.benchmark.tasks[: len(round.past)] if self.strategy.unchanged(round, task)]
        before = round.number - 1
        return on_the_first(self.ranks, lambda: {task.name: self.given(before, task) for task in past})

    def given(self, round: int, task: Task) -> list[Prediction]:
        """A task's answers as they were kept after an earlier round, scored as they were then.

        Raises UserError where they are not those that the round wrote: the model that gave them may be gone.
        """
        lines = kept_answers(self.journal.folder, round, task.name)
        if [line["index"] for line in lines] == task.indices:
            answers = [line["prediction"] for line in lines]
            predictions = score(task.metric, task.indices, answers, task.references, task.questions)
            then = {v: scores[task.name] for v, scores in self.standing.rounds[round - 1]["scores"].items()}
            if summarize(task.metric, predictions, task.questions) == then:
                return predictions
        raise UserError(
            f"{self.journal.folder}/predictions/round{round}/{task.name}.jsonl is not what the run wrote, and round "
            f"{round + 1} takes its answers over: put the file back, or move {self.journal.folder} away and start anew"
        )

    def report(self, standing: Standing) -> dict[str, list[float | None]]:
        """summary.json and report.md of the finished rounds, now and then with its pictures; the newest round's figures
        to the logger.

        Gives OP, BWT and the other figures after every round.
        """
        variant, rows = self.config.metrics.variant, self.journal.rows(standing)
        base, records = standing.base or {}, standing.rounds
        untrained = [record["round"] for record in records if not record["phases"]]
        figures = report.figures(rows, untrained)
        summary = {
            "complete": len(rows) == len(self.rounds),
            "benchmark": self.config.benchmark.name,
            "model": self.config.model.name,
            "method": self.strategy.name,
            "needs_task_id": self.strategy.needs_task_id,
            "seed": self.config.seed,
            "variant": variant,
            "tasks": list(self.journal.tasks),
            **figures,
            "untrained_rounds": untrained,
            "zero_shot": base.get("scores", {}).get(variant, {}),
            **general_loss(base, records),
            **abilities(base, records),
            "seconds": {
                "training": to_ms(sum(r["seconds"] for r in records)),
                "evaluation": to_ms(sum(r.get("evaluation_seconds", 0) for r in (base, *records))),
            },
        }
        newest = dict(zip(self.journal.tasks, rows[-1], strict=False))
        defined = {name: values[-1] for name, values in figures.items() if values[-1] is not None}
        self.logger.log("round", len(rows), {**score_curves(newest), **defined})
        self.journal.write_summary(summary)  # of which the figures of other papers are told, by the reader of all runs
        folder, scores = self.journal.folder, self.journal.scores(standing)
        summary |= summarized(StoredRun.of(folder, report.matrix(scores, self.journal.tasks)))
        self.journal.write_summary(summary)
        report.write_report(folder, scores, self.journal.tasks, records, summary, base)
        if summary["complete"] or perf_counter() > self.next_pictures:
            report.write_pictures(folder, scores, self.journal.tasks, summary)
            self.next_pictures = perf_counter() + PICTURES
        return figures


def told(loss: float, noted: Mapping[str, float]) -> dict[str, float]:
    """The terms of the loss that the strategy told of, and what they leave to the task; nothing where there is none."""
    return {"task_loss": loss - sum(noted.values()), **noted} if noted else {}


def to_ms(seconds: float) -> float:
    """Seconds with three decimals: what lies below is noise."""
    return float(f"{seconds:.3f}")
