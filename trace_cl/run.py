"""The life of a run: for each task in turn, learn it, score all tasks seen so far, and write the row down.

One loop in one direction. Nothing reads back what it wrote but the journal, and the journal is what makes a run
resumable: weights and strategy state come from the checkpoint, every random draw from the seed and the round.
"""

import math
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count
from time import perf_counter
from typing import Any

import torch
from omegaconf import DictConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trace_cl import plan
from trace_cl.analysis import report
from trace_cl.analysis.stored import StoredRun
from trace_cl.build import build_logger, build_strategy, defaults
from trace_cl.config import EngineConfig, TrainingConfig, as_dict, check, only_planned, run_folder
from trace_cl.data.batches import Encoder, answer_tokens, global_batches, shares
from trace_cl.data.benchmark import Benchmark, Task, combined_checksum, load_data, prepare
from trace_cl.data.checks import findings
from trace_cl.errors import UserError
from trace_cl.evaluation import Generator, score, summarize
from trace_cl.records import environment
from trace_cl.records.journal import Journal
from trace_cl.records.loggers import Logger, NoLogger, score_curves, training_curves
from trace_cl.records.places import check_place
from trace_cl.records.progress import Progress
from trace_cl.strategies.base import Round, Strategy, Unsuitable
from trace_cl.training import engines
from trace_cl.training.engine import Engine, Optimization, RoundLearner
from trace_cl.training.layout import Layout
from trace_cl.training.model import check_positions, device_and_dtype, is_spread, load_model, load_tokenizer, locate
from trace_cl.training.ranks import Ranks, join


def start(config: DictConfig) -> None:
    """One run, or the rest of one; every rank calls it. Raises UserError for what a user can mend, before anything is
    trained."""
    try:
        _start(config)
    except Unsuitable as error:
        raise UserError(f"model={config.model.name}: {error}") from error


def _start(config: DictConfig) -> None:
    check(config)
    strategy = build_strategy(config)
    if only_planned(config):
        check_place(run_folder(config, strategy.name))
        print(plan.render(plan.dry_run(config, strategy), as_json=config.dry_run == "json" or not sys.stdout.isatty()))
        return
    device, dtype = device_and_dtype(config.device, config.model.dtype)
    ranks = join(cuda=device.type == "cuda")
    journal = find_journal(config, strategy, writes=ranks.first)
    if journal.complete():
        if ranks.first:
            stored = StoredRun.at(journal.folder)
            print(f"{journal.folder} is complete.\n{report.render(stored.rows, stored.tasks, stored.figures)}")
        return
    run = open_run(config, strategy, journal, ranks, ranks.device(device), dtype)
    with journal.lock(), closing(run.progress):
        run.logger.begin(journal.folder, as_dict(config), run.steps(run.trained))
        with closing(run.logger):
            run.go()


def find_journal(config: DictConfig, strategy: Strategy, writes: bool = True) -> Journal:
    """The run's directory. Raises UserError where a run of another configuration lies there."""
    folder = run_folder(config, strategy.name)
    check_place(folder)
    journal = Journal(folder, list(config.benchmark.order), writes)
    journal.check(as_dict(config), defaults(config))
    return journal


def open_run(
    config: DictConfig, strategy: Strategy, journal: Journal, ranks: Ranks, device: torch.device, dtype: torch.dtype
) -> "Run":
    """Read, check and encode everything; load the model as the last finished round left it."""
    settings = EngineConfig(**config.engine)
    engines.check(settings, ranks.size, strategy.uses)
    logger = build_logger(config) if ranks.first else NoLogger()
    loaded = load_data(config.benchmark, strategy.uses_instructions)
    location = locate(config.model.source, config.model.path)
    tokenizer = load_tokenizer(location)
    encoder = Encoder(tokenizer, config.training.prompt_tokens, config.training.answer_tokens)
    benchmark = prepare(config.benchmark, loaded, config.evaluation.split, encoder)
    journal.check_data(benchmark.checksums, lambda: combined_checksum(config.benchmark))
    if ranks.first:
        for finding in (f"{task.name}: {finding}" for task in loaded.values() for finding in findings(task)):
            print(f"data: {finding}", file=sys.stderr)

    checkpoint = journal.checkpoint()
    torch.manual_seed(config.seed)
    rounds = benchmark.rounds(config.seed)
    model = strategy.build(
        lambda folder: load_model(str(folder or location), dtype, config.model.source), checkpoint, rounds
    )
    check_positions(model, benchmark.tasks)
    if checkpoint is not None:
        strategy.restore(checkpoint)
    needed = plan.needs(strategy, rounds, model, dtype, Layout())
    settings = engines.choose(settings, ranks.size, strategy.uses, device, max(memory.total for memory in needed))
    training = config.training
    engine = engines.build(settings, optimization(training), device, training.tokens_per_batch, ranks)
    engine.to_devices(model)
    if "snapshot" in strategy.uses and is_spread(model):
        raise UserError(
            f"strategy={strategy.name} keeps a frozen copy of the model on every device, and the whole model does not "
            "fit on one: take devices with more memory, a smaller model or another strategy"
        )
    journal.begin(as_dict(config), benchmark.checksums, environment.describe(device))
    return Run(
        config=config,
        strategy=strategy,
        journal=journal,
        logger=logger,
        benchmark=benchmark,
        model=model,
        tokenizer=tokenizer,
        engine=engine,
        ranks=ranks,
        trained=ranks.broadcast(journal.trained_rounds()),
        rows=ranks.broadcast(journal.matrix()),
    )


@dataclass
class Run:
    """A run with everything at hand. `trained` is the newest round whose weights the model holds; `rows` are the rows
    of the matrix so far."""

    config: DictConfig
    strategy: Strategy
    journal: Journal
    logger: Logger
    benchmark: Benchmark
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    engine: Engine
    ranks: Ranks
    trained: int
    rows: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rounds = self.benchmark.rounds(self.config.seed)
        planned = [plan.tokens(self.strategy.phases(round)) for round in self.rounds]
        self.progress = Progress(planned, [task.name for task in self.benchmark.tasks], shown=self.ranks.first)
        finished = len(self.rows)
        for number in range(1, max(self.trained, finished) + 1):
            self.progress.skip_round(number, planned[number - 1], evaluated=number <= finished)

    def steps(self, rounds: int) -> int:
        """The optimizer steps of the first `rounds` rounds."""
        phases = [phase for round in self.rounds[:rounds] for phase in self.strategy.phases(round)]
        return sum(plan.optimizer_steps(phase, self.config.training.global_batch) for phase in phases)

    def go(self) -> None:
        """Every round that is not finished yet."""
        if self.config.evaluation.zero_shot and self.ranks.broadcast(self.journal.read_round(0)) is None:
            base = self.evaluate(0, self.benchmark.tasks)
            self.journal.write_round(0, base)
            self.logger.log("round", 0, score_curves(base["scores"][self.config.metrics.variant]))
        for round in self.rounds[len(self.rows) :]:
            if self.trained < round.number:
                self.train(round)
            self.finish(round)

    def train(self, round: Round) -> None:
        """Learn the round's task, and put the result where a resumed run finds it."""
        training = self.config.training
        began = perf_counter()
        self.journal.begin_steps(round.number)
        torch.manual_seed(self.config.seed * 1000 + round.number + 1_000_000 * self.ranks.rank)
        plan.select_first(self.strategy, round, self.model)
        record = plan.plan_round(self.strategy, round, self.model, training.global_batch)
        loss, logged = self.learn(round) if record["phases"] else (None, {})
        seconds = to_ms(perf_counter() - began)
        self.journal.write_round(round.number, {**record, "final_loss": loss, "seconds": seconds, "strategy": logged})
        if record["phases"]:
            self.keep(round)
        self.trained = round.number

    def learn(self, round: Round) -> tuple[float, dict[str, Any]]:
        """Train the round; gives the last loss, and what the strategy has to say of the round."""
        answerer = self.answerer(self.benchmark.tasks[round.number - 1])
        learner = self.engine.train(self.model, self.strategy.loss, answerer)
        self.strategy.begin_round(round, learner)
        loss = self.take_steps(round, learner)
        logged = self.strategy.end_round(round, learner)
        learner.close()
        return loss, logged

    def keep(self, round: Round) -> None:
        """Put what the round has made of the model and the strategy where a resumed run finds it."""
        self.journal.save_checkpoint(
            round.number,
            [
                partial(self.strategy.save_model, self.model, weights=self.engine.weights(self.model)),
                self.tokenizer.save_pretrained,
                self.strategy.save,
            ],
            keep=self.config.checkpoints == "all",
        )

    def answerer(self, task: Task) -> Generator:
        """What answers a task's prompts."""
        return Generator(
            self.model,
            self.tokenizer,
            task.answer_tokens,
            self.config.evaluation.tokens_per_batch,
            self.ranks,
        )

    def take_steps(self, round: Round, learner: RoundLearner) -> float:
        """Every optimizer step of the round; gives the last loss. Raises UserError for a loss that is not finite."""
        training, steps, loss = self.config.training, count(1), math.nan
        before = self.steps(round.number - 1)
        for phase in self.strategy.phases(round):
            for epoch in range(1, phase.epochs + 1):
                order = f"{self.config.seed}/{round.number}/{phase.name}/{epoch}"
                for batch in global_batches(phase.examples, training.global_batch, order):
                    step, began = next(steps), perf_counter()
                    if step > 1 and plan.select(self.strategy, round, step - 1, self.model):
                        learner.change()
                    loss = learner.backward(batch)
                    stop_unless_finite("loss", loss, round, step)
                    logged = self.strategy.adjust_gradients(round, learner)
                    norm = learner.step()
                    stop_unless_finite("gradient's norm", norm, round, step)
                    seconds, tokens = perf_counter() - began, sum(map(len, batch))
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
                        **logged,
                    }
                    self.journal.add_step(line)
                    self.logger.log("step", before + step, training_curves(line))
                    self.progress.step(round.number, f"{epoch}/{phase.epochs}", loss, tokens, seconds)
        return loss

    def finish(self, round: Round) -> None:
        """Score the tasks seen so far, and report. The row in the matrix comes last: with it the round is finished."""
        scores = self.evaluate(round.number, self.benchmark.tasks[: round.number])
        self.rows.append([scores["scores"][self.config.metrics.variant][task.name] for task in round.tasks])
        if self.ranks.first:
            record = self.journal.read_round(round.number)
            assert record is not None
            self.journal.write_round(round.number, {**record, **scores})
            figures = self.report()
            self.journal.finish_round(self.rows[-1])
            self.progress.say(f"\n{report.render(self.rows, self.journal.tasks, figures)}\n")

    def evaluate(self, round: int, tasks: Sequence[Task]) -> dict[str, Any]:
        """Answer and score these tasks, each rank its share of the examples; keep every answer.

        Gives the mean scores by variant and task, and the time.
        """
        began = perf_counter()
        scores: dict[str, dict[str, float]] = {}
        for task in tasks:
            self.progress.evaluating(round, task.name)
            mine = shares([len(prompt) for prompt in task.prompts], self.ranks.size)[self.ranks.rank]
            answers = self.strategy.answer(task, [task.prompts[i] for i in mine], self.answerer(task))
            scored = score(
                task.metric,
                [task.indices[i] for i in mine],
                answers,
                [task.references[i] for i in mine],
                [task.questions[i] for i in mine],
            )
            predictions = sorted(chain(*self.ranks.gather(scored)), key=lambda prediction: prediction.index)
            self.journal.write_prompts(task.name, task.indices, task.questions)
            self.journal.write_predictions(round, task.name, predictions, self.config.metrics.variant)
            for variant, figure in summarize(task.metric, predictions, task.questions).items():
                scores.setdefault(variant, {})[task.name] = figure
            self.progress.evaluated(round, task.name)
        return {"scores": scores, "evaluation_seconds": to_ms(perf_counter() - began)}

    def report(self) -> dict[str, list[float | None]]:
        """summary.json, report.md and its pictures as the finished rounds have it; the newest round's to the logger.

        Gives OP, BWT and the other figures after every round.
        """
        variant, rows = self.config.metrics.variant, self.rows
        records = [self.journal.read_round(t) or {} for t in range(len(rows) + 1)]
        untrained = [record["round"] for record in records[1:] if not record["phases"]]
        figures = report.figures(rows, untrained)
        summary = {
            "complete": len(rows) == len(self.rounds),
            "benchmark": self.config.benchmark.name,
            "model": self.config.model.name,
            "method": self.strategy.name,
            "seed": self.config.seed,
            "variant": variant,
            "tasks": list(self.journal.tasks),
            **figures,
            "untrained_rounds": untrained,
            "zero_shot": records[0].get("scores", {}).get(variant, {}),
            "seconds": {
                "training": to_ms(sum(r["seconds"] for r in records[1:])),
                "evaluation": to_ms(sum(r.get("evaluation_seconds", 0) for r in records)),
            },
        }
        newest = dict(zip(self.journal.tasks, rows[-1], strict=False))
        defined = {name: values[-1] for name, values in figures.items() if values[-1] is not None}
        self.logger.log("round", len(rows), {**score_curves(newest), **defined})
        self.journal.write_summary(summary)
        report.write_report(self.journal.folder, rows, self.journal.tasks, records[1:], summary)
        return figures


def optimization(training: TrainingConfig) -> Optimization:
    """The optimizer's settings, out of a run's."""
    first, second = training.betas
    return Optimization(
        training.learning_rate, (first, second), training.eps, training.weight_decay, training.clip_norm
    )


def stop_unless_finite(name: str, value: float, round: Round, step: int) -> None:
    """Raises UserError where training has come to nothing."""
    if not math.isfinite(value):
        raise UserError(
            f"the {name} is {value} in round {round.number} ({round.task.name}), step {step}: "
            "lower training.learning_rate; the rounds before it are kept"
        )


def to_ms(seconds: float) -> float:
    """Seconds with three decimals: what lies below is noise."""
    return float(f"{seconds:.3f}")
