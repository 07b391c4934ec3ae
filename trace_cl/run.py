"""A run from its configuration: what lies there already is found and locked, the rest is read, checked and loaded.

What then happens, round by round, is `trace_cl/rounds.py`.
"""

import sys
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedModel

from trace_cl.analysis import report
from trace_cl.analysis.stored import StoredRun
from trace_cl.build import build_logger, build_strategy, defaults
from trace_cl.calibrate import Calibration, calibrate
from trace_cl.config import EngineConfig, TrainingConfig, as_dict, check, only_planned
from trace_cl.data.batches import Encoder
from trace_cl.data.benchmark import combined_checksum, load_data, prepare, published
from trace_cl.data.checks import findings
from trace_cl.dry_run import chosen, dry_run, render
from trace_cl.errors import UserError
from trace_cl.identity import run_folder
from trace_cl.needs import Needs, decide, settle
from trace_cl.records import environment
from trace_cl.records.journal import Journal, Standing
from trace_cl.records.loggers import NoLogger
from trace_cl.records.writable import check_writable
from trace_cl.rounds import Run as Run
from trace_cl.signals import listening
from trace_cl.strategies.base import Strategy, Unsuitable
from trace_cl.strategies.streams import stream
from trace_cl.training import engines
from trace_cl.training.allocator import keep_freed_memory
from trace_cl.training.engine import Optimization
from trace_cl.training.folder import build_on_meta, read_config
from trace_cl.training.free_memory import measure
from trace_cl.training.layout import device_and_dtype
from trace_cl.training.model import (
    check_positions,
    cut_matters,
    is_spread,
    load_model,
    load_tokenizer,
    locate,
    whole_bytes,
)
from trace_cl.training.ranks import Ranks, first_here, join, on_the_first


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
    if config.evaluation.tasks == "all" and strategy.needs_task_id:
        raise UserError(
            f"evaluation.tasks=all asks for tasks that are not learned yet, and strategy={strategy.name} answers with "
            "what it has learned of a task: set evaluation.tasks=seen"
        )
    if only_planned(config):
        check_writable(run_folder(config, strategy.name))
        planned = dry_run(config, strategy)
        if config.calibrate:
            planned = calibrated(config, strategy).added_to(planned)
        if first_here():
            print(render(planned, as_json=config.dry_run == "json" or not sys.stdout.isatty()))
        return
    device, dtype = device_and_dtype(config.device, config.model.dtype)
    if device.type == "cpu":
        keep_freed_memory()
    ranks = join(cuda=device.type == "cuda")
    journal = find_journal(config, strategy, writes=ranks.first)
    if on_the_first(ranks, journal.complete):
        show(journal, ranks)
        return
    with ExitStack() as stack:
        on_the_first(ranks, lambda: stack.enter_context(journal.lock()))
        find_journal(config, strategy)  # whoever held the lock before may have begun the run
        standing = on_the_first(ranks, journal.standing)
        for note in standing.notes if ranks.first else ():
            print(note, file=sys.stderr)
        if standing.finished == len(journal.tasks):
            show(journal, ranks)
            return
        run = open_run(config, strategy, journal, standing, ranks, ranks.device(device), dtype)
        stack.enter_context(closing(run.progress))
        run.logger.begin(journal.folder, as_dict(run.config), run.steps(run.trained))
        with closing(run.logger), listening():
            run.go()


def calibrated(config: DictConfig, strategy: Strategy) -> Calibration:
    """What the run will take, measured by the run in small; nothing is left of it."""
    device, dtype = device_and_dtype(config.device, config.model.dtype)
    ranks = join(cuda=device.type == "cuda")
    beside = Path(config.runs_dir).absolute()
    beside = next(path for path in (beside, *beside.parents) if path.is_dir())
    with ExitStack() as stack:
        folder = on_the_first(ranks, lambda: stack.enter_context(TemporaryDirectory(prefix=".calibrate-", dir=beside)))
        config = OmegaConf.merge(config, {"runs_dir": folder})  # type: ignore[assignment]  # of a DictConfig it is one
        journal = find_journal(config, strategy, writes=ranks.first)
        run = open_run(config, strategy, journal, Standing(), ranks, ranks.device(device), dtype)
        with closing(run.progress):
            return calibrate(run)


def show(journal: Journal, ranks: Ranks) -> None:
    """Print the result of a complete run."""
    if ranks.first:
        stored = StoredRun.at(journal.folder)
        print(f"{journal.folder} is complete.\n{report.render(stored.rows, stored.tasks, stored.figures)}")


def find_journal(config: DictConfig, strategy: Strategy, writes: bool = True) -> Journal:
    """The run's directory. Raises UserError where a run of another configuration lies there."""
    folder = run_folder(config, strategy.name)
    check_writable(folder)
    journal = Journal(folder, list(config.benchmark.order), config.metrics.variant, writes)
    journal.check(as_dict(config), defaults(config))
    return journal


def open_run(
    config: DictConfig,
    strategy: Strategy,
    journal: Journal,
    standing: Standing,
    ranks: Ranks,
    device: torch.device,
    dtype: torch.dtype,
) -> "Run":
    """Read, check and encode everything; load the model as the newest round that learned left it."""
    settings = EngineConfig(**config.engine)
    engines.check(settings, ranks.size, strategy.uses)
    logger = build_logger(config) if ranks.first else NoLogger()
    loaded = load_data(config.benchmark, strategy.uses_instructions)
    location = locate(config.model.source, config.model.path)
    tokenizer = load_tokenizer(location)
    encoder = Encoder(tokenizer, config.training.total_tokens, config.evaluation.prompt_tokens)
    benchmark = prepare(config.benchmark, loaded, config.evaluation.split, encoder)
    journal.check_data(benchmark.checksums, lambda: combined_checksum(config.benchmark))
    if ranks.first:
        for task in loaded.values():
            for finding in findings(task, published(config.benchmark, task.name), config.evaluation.split):
                print(f"data: {task.name}: {finding}", file=sys.stderr)

    rounds = benchmark.rounds(config.seed, config.training.global_batch)

    # The plan has a strategy of its own, whose model has no values.
    planner = build_strategy(config)
    planned = planner.build(lambda _: build_on_meta(read_config(Path(location)), dtype), None, rounds)
    needs = Needs(config, planner, benchmark, planned, dtype)
    needs, decided = decide(needs, ranks.size, measure(device, ranks), journal.settings())
    config = needs.config
    for line in chosen(decided) if ranks.first else ():
        print(line, file=sys.stderr)
    if needs.strategy is not planner:
        strategy = build_strategy(config)

    def build(checkpoint: Path | None) -> PreTrainedModel:
        torch.manual_seed(stream(config.seed, "build"))
        return strategy.build(
            lambda folder: load_model(str(folder or location), dtype, config.model.source), checkpoint, rounds
        )

    model = build(standing.checkpoint)
    check_positions(model, benchmark.tasks, [strategy.positions(round) for round in rounds])
    if standing.checkpoint is not None:
        strategy.restore(standing.checkpoint)
    if cut_matters(model):
        journal.check_cut(config.training.tokens_per_batch, ranks.size)
    settings = settle(needs, device, ranks)
    training = config.training
    engine = engines.build(settings, optimization(training), device, training.tokens_per_batch, ranks)
    engine.to_devices(model)
    if "snapshot" in strategy.uses and is_spread(model):
        raise UserError(
            f"strategy={strategy.name} keeps a frozen copy of the model on every device, and the whole model does not "
            "fit on one: take devices with more memory, a smaller model or another strategy"
        )
    journal.begin(as_dict(config), benchmark.checksums, environment.describe(device, ranks.size))
    return Run(
        config=config,
        strategy=strategy,
        journal=journal,
        standing=standing,
        logger=logger,
        benchmark=benchmark,
        model=model,
        build_base=partial(build, None),
        base_bytes=whole_bytes(build_on_meta(read_config(Path(location)), dtype)),
        tokenizer=tokenizer,
        engine=engine,
        ranks=ranks,
    )


def optimization(training: TrainingConfig) -> Optimization:
    """The optimizer's settings, out of a run's."""
    first, second = training.betas
    return Optimization(
        training.learning_rate, (first, second), training.eps, training.weight_decay, training.clip_norm
    )
