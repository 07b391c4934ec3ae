"""The life of a run: for each task in turn, learn it, score all tasks seen so far, and write the row down.

One loop in one direction. Nothing reads back what it wrote but the journal, and the journal is what makes a run
resumable: weights and strategy state come from the checkpoint, every random draw from the seed and the round.
"""

import json
import math
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from time import perf_counter
from typing import Any

import torch
from omegaconf import DictConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from strategies.base import Round, Strategy
from trace_cl import environment, plan, report
from trace_cl.batches import Encoder, answer_tokens, global_batches
from trace_cl.benchmark import Benchmark, Task, load_data, prepare
from trace_cl.config import as_dict, build_strategy, check, run_folder
from trace_cl.data import findings
from trace_cl.engine import TorchEngine
from trace_cl.errors import UserError
from trace_cl.evaluation import generate, score
from trace_cl.journal import Journal
from trace_cl.model import device_and_dtype, load_model, load_tokenizer, locate
from trace_cl.progress import Progress


def start(config: DictConfig) -> None:
    """One run, or the rest of one. Raises UserError for anything a user can mend, before anything is trained."""
    check(config)
    strategy = build_strategy(config)
    if config.dry_run:
        print(json.dumps(plan.dry_run(config, strategy), ensure_ascii=False, indent=1))
        return
    journal = find_journal(config, strategy)
    if journal.complete():
        print(f"{journal.folder} is complete.\n{report.render(journal.matrix(), journal.tasks)}")
        return
    run = open_run(config, strategy, journal)
    with journal.alone(), closing(run.progress):
        run.go()


def find_journal(config: DictConfig, strategy: Strategy) -> Journal:
    """The run's directory. Raises UserError where a run of another configuration lies there."""
    journal = Journal(run_folder(config, strategy), list(config.benchmark.order))
    journal.check(as_dict(config))
    return journal


def open_run(config: DictConfig, strategy: Strategy, journal: Journal) -> "Run":
    """Read, check and encode everything; load the model as the last finished round left it."""
    loaded = load_data(config.benchmark)
    location = locate(config.model.source, config.model.path)
    tokenizer = load_tokenizer(location)
    encoder = Encoder(tokenizer, config.training.prompt_tokens, config.training.answer_tokens)
    benchmark = prepare(config.benchmark, loaded, config.evaluation.split, encoder)
    journal.check_data(benchmark.sha256)
    for finding in (f"{task.name}: {finding}" for task in loaded.values() for finding in findings(task)):
        print(f"data: {finding}", file=sys.stderr)

    device, dtype = device_and_dtype(config.device, config.model.dtype)
    checkpoint = journal.checkpoint()
    torch.manual_seed(config.seed)
    model = strategy.prepare(
        lambda folder: load_model(location if folder is None else str(folder), dtype, device), checkpoint
    )
    if checkpoint is not None:
        strategy.restore(checkpoint)
    journal.begin(as_dict(config), benchmark.sha256, environment.describe(device))
    return Run(config, strategy, journal, benchmark, model, tokenizer, journal.trained_rounds())


@dataclass
class Run:
    """A run with everything at hand. `trained` is the newest round whose weights the model holds."""

    config: DictConfig
    strategy: Strategy
    journal: Journal
    benchmark: Benchmark
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    trained: int

    def __post_init__(self) -> None:
        self.rounds = self.benchmark.rounds(self.config.seed)
        planned = [plan.tokens(self.strategy.phases(round)) for round in self.rounds]
        self.progress = Progress(planned, [task.name for task in self.benchmark.tasks])
        finished = len(self.journal.matrix())
        for number in range(1, max(self.trained, finished) + 1):
            self.progress.skip_round(number, planned[number - 1], evaluated=number <= finished)

    def go(self) -> None:
        """Every round that is not finished yet."""
        if self.config.evaluation.zero_shot and self.journal.read_round(0) is None:
            self.journal.write_round(0, self.evaluate(0, self.benchmark.tasks))
        for round in self.rounds[len(self.journal.matrix()) :]:
            if self.trained < round.number:
                self.train(round)
            self.finish(round)

    def train(self, round: Round) -> None:
        """Learn the round's task, and put the result where a resumed run finds it."""
        training = self.config.training
        began = perf_counter()
        self.journal.begin_steps(round.number)
        torch.manual_seed(self.config.seed * 1000 + round.number)
        self.strategy.begin_round(round, self.model)
        record = plan.plan_round(self.strategy, round, self.model, training.global_batch)
        engine = TorchEngine(
            self.model,
            training.learning_rate,
            tuple(training.betas),
            training.weight_decay,
            training.clip_norm,
            training.tokens_per_batch,
        )
        loss = self.learn(round, engine)
        engine.close()
        told = self.strategy.end_round(round)
        seconds = to_ms(perf_counter() - began)
        self.journal.write_round(round.number, {**record, "final_loss": loss, "seconds": seconds, "strategy": told})
        self.journal.save_checkpoint(
            round.number,
            [self.model.save_pretrained, self.tokenizer.save_pretrained, self.strategy.save],
            keep=self.config.checkpoints == "all",
        )
        self.trained = round.number

    def learn(self, round: Round, engine: TorchEngine) -> float:
        """Every optimizer step of the round; gives the last loss. Raises UserError for a loss that is not finite."""
        training, steps, loss = self.config.training, count(1), math.nan
        for phase in self.strategy.phases(round):
            for epoch in range(1, phase.epochs + 1):
                order = f"{self.config.seed}/{round.number}/{phase.name}/{epoch}"
                for batch in global_batches(phase.examples, training.global_batch, order):
                    step, began = next(steps), perf_counter()
                    loss = engine.backward(batch)
                    stop_unless_finite("loss", loss, round, step)
                    told = self.strategy.adjust_gradients(round, engine)
                    norm = engine.step()
                    stop_unless_finite("gradient's norm", norm, round, step)
                    seconds, tokens = perf_counter() - began, sum(map(len, batch))
                    self.journal.add_step(
                        {
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
                            **told,
                        }
                    )
                    self.progress.step(round.number, f"{epoch}/{phase.epochs}", loss, tokens, seconds)
        return loss

    def finish(self, round: Round) -> None:
        """Score the tasks seen so far, and report. The row in the matrix comes last: with it the round is finished."""
        scores = self.evaluate(round.number, self.benchmark.tasks[: round.number])
        record = self.journal.read_round(round.number)
        assert record is not None
        self.journal.write_round(round.number, {**record, **scores})
        row = [scores["scores"][self.config.metrics.variant][task.name] for task in round.tasks]
        rows = [*self.journal.matrix(), row]
        self.report(rows)
        self.journal.finish_round(row)
        self.progress.say(f"\n{report.render(rows, self.journal.tasks)}\n")

    def evaluate(self, round: int, tasks: Sequence[Task]) -> dict[str, Any]:
        """Answer and score these tasks; keep every answer. Gives the mean scores by variant and task, and the time."""
        began = perf_counter()
        scores: dict[str, dict[str, float]] = {}
        for task in tasks:
            self.progress.evaluating(round, task.name)
            answers = generate(
                self.model, self.tokenizer, task.prompts, task.answer_tokens, self.config.evaluation.tokens_per_batch
            )
            predictions = score(task.metric, task.indices, answers, task.references)
            self.journal.write_predictions(round, task.name, predictions, self.config.metrics.variant)
            for variant in predictions[0].scores:
                mean = math.fsum(p.scores[variant] for p in predictions) / len(predictions)
                scores.setdefault(variant, {})[task.name] = mean
            self.progress.evaluated(round, task.name)
        return {"scores": scores, "evaluation_seconds": to_ms(perf_counter() - began)}

    def report(self, rows: Sequence[Sequence[float]]) -> None:
        """summary.json, report.md and heatmap.png as the finished rounds have it."""
        variant = self.config.metrics.variant
        records = [self.journal.read_round(t) or {} for t in range(len(rows) + 1)]
        op, bwt = report.figures(rows)
        summary = {
            "complete": len(rows) == len(self.rounds),
            "benchmark": self.config.benchmark.name,
            "model": self.config.model.name,
            "method": self.strategy.name,
            "seed": self.config.seed,
            "variant": variant,
            "tasks": list(self.journal.tasks),
            "OP": op,
            "BWT": bwt,
            "zero_shot": records[0].get("scores", {}).get(variant, {}),
            "seconds": {
                "training": to_ms(sum(r["seconds"] for r in records[1:])),
                "evaluation": to_ms(sum(r.get("evaluation_seconds", 0) for r in records)),
            },
        }
        self.journal.write_summary(summary)
        report.write_report(self.journal.folder, rows, self.journal.tasks, records[1:], summary)


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
