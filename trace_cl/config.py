"""The typed schema of a run's configuration, and what can be checked of it before anything is loaded.

Hydra composes `conf/` over these classes: a key that is not here is refused, a value of another type too. No class of
the project takes a configuration; each is handed its values. PyTorch is not imported here: a wrong word is answered at
once.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import II, MISSING, DictConfig, OmegaConf
from omegaconf.errors import InterpolationValidationError, OmegaConfBaseException

from trace_cl import metrics
from trace_cl.draw import Draw
from trace_cl.errors import UserError, nearest
from trace_cl.names import look_up
from trace_cl.paths import check_benchmark, check_name, check_tasks
from trace_cl.records.files import flatten
from trace_cl.strategies.selection import Selection
from trace_cl.strategies.settings import BELOW_ONE, COUNT, NOT_NEGATIVE, POSITIVE, Range

CONF_DIR = Path(__file__).parent / "conf"

_YES, _NO = ("true", "yes", "y", "on", "1"), ("false", "no", "n", "off", "0")

CHOICES: dict[str, tuple[str | int | None, ...]] = {
    "metrics.variant": metrics.VARIANTS,
    "evaluation.split": ("eval", "test"),
    "evaluation.tasks": ("seen", "all"),
    "checkpoints": ("newest", "all"),
    "model.dtype": (None, "bf16", "fp32"),
    "benchmark.source": ("files", "generated"),
    "benchmark.reader": ("trace", "cl_benchmark", "natural_instructions", "datasets"),
    "engine.gradient_checkpointing": (True, False, "auto"),
    "engine.name": ("auto", "torch", "deepspeed"),
    "engine.zero_stage": (0, 2, 3),
}
"""The keys that take one of a few words or numbers."""

RANGES = {
    "benchmark.counts.*": COUNT,
    "benchmark.editions.*.train": COUNT,
    "benchmark.epochs": COUNT,
    "benchmark.max_test": COUNT,
    "benchmark.max_train": COUNT,
    "benchmark.tasks.*.answer_tokens": COUNT,
    "benchmark.tasks.*.epochs": COUNT,
    "checkpoint.every_minutes": POSITIVE,
    "checkpoint.every_steps": COUNT,
    "evaluation.prompt_tokens": COUNT,
    "evaluation.tokens_per_batch": COUNT,
    "model.adapter_learning_rate": POSITIVE,
    "model.learning_rate": POSITIVE,
    "model.prompt_learning_rate": POSITIVE,
    "seed": Range(0, 2**53),  # larger ones are no longer exact in JSON
    "training.betas": BELOW_ONE,
    "training.clip_norm": POSITIVE,
    "training.eps": POSITIVE,
    "training.global_batch": COUNT,
    "training.learning_rate": POSITIVE,
    "training.tokens_per_batch": COUNT,
    "training.total_tokens": Range(2),  # one to learn, and one that it follows
    "training.weight_decay": NOT_NEGATIVE,
}
"""What each number must be, of a list each of its numbers; those of `selection` and `strategy` are checked by their
own classes."""


@dataclass
class TaskConfig:
    """One task: how long it is learned, how it is scored, and how long its answers may be."""

    epochs: int = MISSING
    """Times that its training examples are gone through in its round."""
    metric: str = MISSING
    """How its answers are scored: a name of `metrics.METRICS`, or the dotted name of a metric of one's own."""
    answer_tokens: int = MISSING
    """Tokens generated at most; fewer where nothing that follows can change the score."""
    template: str | None = None
    """How a row of this task becomes a prompt; `null`: as `benchmark.template` says."""
    answer: str | None = None
    """How a row of this task becomes an answer; `null`: as `benchmark.answer` says."""
    options: list[str] | None = None
    """The answers there are, in `reader: datasets`: `{options}` lists them, and a number counts them from 0; `null`:
    the classes of the answer's column, if it has any."""
    dataset: str | None = None
    """Its name on the Hugging Face hub, or its folder under `root`, in `reader: datasets`; `null`: the task's name."""
    subset: str | None = None
    """The configuration of the dataset on the hub."""
    revision: str | None = None
    """The commit of the dataset on the hub; `null`: the newest."""


@dataclass
class EditionConfig:
    """A cut of a benchmark that is published under a name of its own."""

    folder: str = MISSING
    """The folder that it lies in, under `root`; where that is not there it is `root` itself."""
    train: int | None = None
    """Training examples of each task, of which a task may have fewer, but not so few as a smaller edition's; `null`:
    any number."""


@dataclass
class BenchmarkConfig:
    """The tasks, in the order they are learned, and where their examples come from."""

    name: str = MISSING
    """Its name in paths and tables."""
    source: str = "files"
    """`files` (under `root`), or `generated` (by `generator`)."""
    reader: str = "trace"
    """How its files lie and read: `trace` (`ROOT/TASK/{train,eval,test}.json`), `cl_benchmark` (O-LoRA's),
    `natural_instructions` (SAPT's), or `datasets` (any, by their columns)."""
    root: str | None = None
    """The folder of its files."""
    template: str | None = None
    """How a row becomes a prompt: a text with `{named}` places, which the reader gives; `null`: its prompt as it is."""
    answer: str | None = None
    """How a row becomes an answer, in `reader: datasets`: a text with columns in its places, as `{label}`."""
    splits: dict[str, str] = field(default_factory=dict)
    """What the dataset calls the splits `train`, `eval` and `test`, in `reader: datasets`; those not named are called
    so there."""
    generator: str | None = None
    """The dotted name of the function that generates its examples."""
    general: str | None = None
    """The dotted name of the function that gives general text, whose loss each round records; `null`: none."""
    abilities: str | None = None
    """The dotted name of the function that gives exercises by general ability, which are scored after each round;
    `null`: none."""
    order: Any = MISSING
    """The tasks that are learned, in this order: a list, the name of one of `orders`, or `random` (all tasks, as the
    seed draws them; `random3`: as seed 3 does)."""
    orders: dict[str, list[str]] = field(default_factory=dict)
    """Orders by name."""
    tasks: dict[str, TaskConfig] = MISSING
    """The tasks that can be learned."""
    epochs: int | None = None
    """Epochs of every task; `null`: each task's own."""
    instructions: str | None = None
    """The general instruction set that Replay learns from; `null`: there is none."""
    counts: dict[str, Any] = field(default_factory=dict)
    """The published number of examples by task and instruction set, of the training split or of `[train, eval, test]`:
    what a dry run plans by where the files are missing; that files have others is announced."""
    edition: Any = None
    """The one of `editions` that is read; `null`: the folder as it is given."""
    editions: dict[str, EditionConfig] = field(default_factory=dict)
    """Cuts of it that are published under names of their own."""
    max_train: int | None = None
    """Training examples of each task at most, the first ones; `null`: all."""
    max_test: int | None = None
    """Scored examples of each task at most, the first ones; `null`: all."""
    drop_leaked: bool = False
    """Leave out scored examples whose prompt stands in the task's training set too."""


@dataclass
class ModelConfig:
    """A model, and what suits it: `training.learning_rate` is one of the two rates."""

    name: str = MISSING
    """Its name in paths and tables."""
    source: str | None = None
    """Its name on the Hugging Face hub; `null`: it comes from `path` alone."""
    path: str | None = None
    """A folder in Hugging Face layout that is loaded instead of `source`."""
    architecture: dict[str, Any] | None = None
    """Its `config.json`'s sizes, by which a dry run counts without weights or network."""
    learning_rate: float = MISSING
    """The learning rate of its own weights."""
    adapter_learning_rate: float | None = None
    """The learning rate of an adapter that is trained in their stead."""
    prompt_learning_rate: float = 0.3
    """The learning rate of soft prompts (Progressive prompts, arXiv 2301.12314, section 4)."""
    adapter_targets: list[str] | None = field(default_factory=lambda: ["q_proj", "v_proj"])
    """The matrices that an adapter stands beside, by the ends of their names; `null`: those that peft adapts in such an
    architecture."""
    dtype: str | None = None
    """What weights are held and computed in: `bf16`, `fp32`; `null`: bf16 on a GPU, else fp32."""


@dataclass
class TrainingConfig:
    """How a round is trained; the defaults are the HFT paper's and TRACE's."""

    global_batch: int = 128
    """Examples in an optimizer step, over all devices."""
    learning_rate: float = II("model.learning_rate")
    """AdamW's, the same in every step."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's."""
    eps: float = 1e-8
    """AdamW's."""
    weight_decay: float = 0.0
    """AdamW's."""
    clip_norm: float = 1.0
    """The norm that gradients are clipped to before each step."""
    total_tokens: int = 1536
    """Tokens of an example at most, prompt and answer together: where it has more, the prompt loses its first ones."""
    tokens_per_batch: Any = 8192
    """Tokens of a micro-batch on each device: changes speed and memory, not results; `auto`: the fastest that fits."""


@dataclass
class EngineConfig:
    """How training is spread over devices: it changes speed and memory, not results."""

    name: str = MISSING
    """`torch` (one device), `deepspeed`, or `auto`: deepspeed on several devices, or for a model too large for one."""
    processes: Any = "auto"
    """Devices of this machine that take part: `auto` (all of its GPUs) or a number."""
    zero_stage: int = 2
    """What DeepSpeed deals out over the ranks: 0 nothing, 2 optimizer and gradients, 3 the weights too."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in main memory (stages 2 and 3)."""
    gather: bool | None = None
    """Stage 3, between rounds: whether every rank gets a whole copy to answer with; `null`: where it fits."""
    gradient_checkpointing: Any = False
    """Compute layers twice instead of keeping their activations; `auto`: where these do not fit."""


@dataclass
class EvaluationConfig:
    """How the tasks seen so far are scored after each round."""

    split: str = "test"
    """The split that is scored: `test` or `eval`."""
    prompt_tokens: int = 1024
    """Tokens of a prompt at most, its last ones, where it is answered."""
    tasks: str = "seen"
    """Which tasks are scored after a round: those `seen`, or `all`, of which forward transfer can be told."""
    zero_shot: bool = True
    """Whether to score the base model too, before the first round."""
    reference_loss: bool = True
    """Whether to record the loss of the references beside each score."""
    tokens_per_batch: Any = 32768
    """Tokens of a batch of prompts and their answers on each device; `auto`: as many as fit."""


@dataclass
class CheckpointConfig:
    """How often a round puts by what it has come to, besides at its end: it changes what a crash costs, not results."""

    every_minutes: float | None = 30
    """After so many minutes; `null`: not by the clock."""
    every_steps: int | None = None
    """After so many optimizer steps; `null`: not by their number."""


@dataclass
class MetricsConfig:
    """How answers are scored."""

    variant: str = "standard"
    """Whose scores make the matrix: `standard`, or `trace_compat`, exactly TRACE's own scorers'; both are recorded."""


@dataclass
class Config:
    """Everything one run is made of."""

    strategy: dict[str, Any] = MISSING
    logger: dict[str, Any] = MISSING
    selection: Selection = MISSING
    benchmark: BenchmarkConfig = MISSING
    model: ModelConfig = MISSING
    training: TrainingConfig = field(default_factory=TrainingConfig)
    engine: EngineConfig = MISSING
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    hft: bool = False
    """Half Fine-Tuning round the strategy; `selection` says how the half is chosen."""
    seed: int = 1
    """Every random draw follows from it, the round and the step."""
    device: str = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`."""
    checkpoints: str = "newest"
    """`newest`: the last finished round's; `all`: every round's."""
    runs_dir: str = "runs"
    """The folder that holds all runs."""
    dry_run: Any = False
    """`true`: print the plan, and train nothing; `json`: print it as JSON, which a pipe gets in any case."""
    calibrate: bool = False
    """With `dry_run`: make a few steps of each round, score a batch of each task, and say how many hours all will take,
    and how much of the disk; of the weights that takes, nothing is left behind."""


ConfigStore.instance().store(name="schema", node=Config)
OmegaConf.register_new_resolver("share", lambda whole, parts: max(1, int(whole) // int(parts)), replace=True)


def as_dict(config: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """A configuration as plain values, every reference resolved."""
    content = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


@cache
def schema_defaults() -> dict[str, Any]:
    """What each key is where nobody says, by the schema alone. Keys are dotted."""
    settings = {
        key.name: as_dict(OmegaConf.structured(key.type), resolve=False) if is_dataclass(key.type) else key.default
        for key in fields(Config)
    }
    return {key: value for key, value in flatten(settings) if value != MISSING}


def only_planned(config: DictConfig) -> bool:
    """Whether this is a dry run."""
    return str(config.dry_run).lower() in (*_YES, "json")


def tasks_in_order(
    order: object, orders: Mapping[str, Sequence[str]], tasks: Sequence[str], seed: int | None = None
) -> list[str]:
    """The list of tasks that `benchmark.order` stands for. Raises UserError where it stands for none."""
    if isinstance(order, Sequence) and not isinstance(order, str):
        if all(isinstance(task, str) for task in order):
            return list(order)
        raise UserError(f"benchmark.order={order} must list tasks' names: put a name that is a number in quotes")
    if str(order) in orders:
        return list(orders[str(order)])
    if drawn := re.fullmatch(r"random(\d{0,9})", str(order), re.ASCII):
        return random_order(tasks, int(drawn[1]) if drawn[1] else seed or 0)
    raise UserError(
        f"benchmark.order={order} is neither a list of tasks nor one of {', '.join([*orders, 'random'])}; "
        "a single task stands in brackets"
    )


def random_order(tasks: Sequence[str], number: int) -> list[str]:
    """The tasks in the random order of this number, the same on every machine."""
    return Draw(number).some(sorted(tasks), len(tasks))


def order_name(order: Sequence[str], orders: Mapping[str, Sequence[str]], tasks: Sequence[str]) -> str | None:
    """The name that an order of the tasks goes by: one of `orders`, else one of the first hundred random ones."""
    named = next((name for name, listed in orders.items() if list(listed) == list(order)), None)
    if named is not None or sorted(order) != sorted(tasks):
        return named
    return next((f"random{number}" for number in range(100) if random_order(tasks, number) == list(order)), None)


def look_up_metric(name: str, key: str = "metric") -> metrics.Metric:
    """A metric by its name in `metrics.METRICS`, or by its dotted name. Raises UserError where there is none."""
    if "." not in name:
        if name not in metrics.METRICS:
            known = ", ".join(metrics.METRICS)
            raise UserError(f"{key}={name} is not one of {known}, nor the dotted name of a metric of your own")
        return metrics.METRICS[name]
    metric: metrics.Metric = look_up(key, name)
    if not callable(metric):
        raise UserError(f"{key}={name} is no function of predictions and references")
    return metric


def check(config: DictConfig) -> None:
    """Put the tasks in the place of their order's name, and raise UserError, naming the key, for a value the schema's
    types let through but no run could use."""
    try:
        given = as_dict(config)
    except InterpolationValidationError as error:
        reference = re.search(r"\$\{.+?\}", str(error))
        value = reference[0] if reference else "a reference"
        raise UserError(f"{error.full_key}={value}, which is not set: give one of the two a value") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    for key in given:
        if key not in Config.__dataclass_fields__:
            raise UserError(f"{key}: no such key; nearest: {nearest(key, Config.__dataclass_fields__)}")
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"{missing[0]} is not set: give it a value")
    check_benchmark(config.benchmark.name)
    check_name("model.name", config.model.name)
    for name in config.benchmark.orders:
        if name in config.benchmark.tasks or not re.fullmatch(r"[\w.]+", name, re.ASCII) or name.startswith("random"):
            raise UserError(
                f"benchmark.orders.{name}: an order's name is of letters, digits, _ and . alone, is no task's, and "
                "does not begin with random; give it another"
            )
    config.benchmark.order = tasks_in_order(
        config.benchmark.order, config.benchmark.orders, list(config.benchmark.tasks), config.seed
    )
    check_tasks(config.benchmark.order)
    for section in ("strategy", "logger"):
        if not isinstance(target := given[section].get("_target_"), str) or not target:
            raise UserError(f"{section}._target_ is not set: it names a class, as in mine.{section.title()}")
    for key, allowed in CHOICES.items():
        if (value := OmegaConf.select(config, key)) not in allowed:
            listed = (json.dumps(word).strip('"') for word in allowed)
            raise UserError(f"{key}={value} is not one of {', '.join(listed)}")
    if str(config.dry_run).lower() not in (*_YES, *_NO, "json"):
        raise UserError(f"dry_run={config.dry_run} is not one of true, false, json")
    if config.calibrate and not only_planned(config):
        raise UserError("calibrate=true says what a run will take, and makes none: set dry_run=true beside it")
    _check_numbers(given)
    _check_device(config)
    if not config.runs_dir:
        raise UserError("runs_dir is empty: name the folder that is to hold the runs")
    _check_source(config.model)
    _check_benchmark(config.benchmark)


def _check_numbers(given: Mapping[str, Any]) -> None:
    for section in ("training", "evaluation"):
        if (tokens := given[section]["tokens_per_batch"]) != "auto" and type(tokens) is not int:
            raise UserError(f"{section}.tokens_per_batch={tokens} is neither auto nor a whole number of tokens")
    try:
        for key, value in flatten(given):
            for pattern, range in RANGES.items():
                if value not in (None, "auto") and fnmatchcase(key, pattern):
                    for number in value if isinstance(value, list) else [value]:
                        range.check(key, number)
    except ValueError as error:
        raise UserError(str(error)) from error
    if len(betas := given["training"]["betas"]) != 2:
        raise UserError(f"training.betas={betas} must be two numbers, as in [0.9,0.95]")


def _check_device(config: DictConfig) -> None:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device):
        raise UserError(f"device={config.device} is not one of auto, cpu, cuda, cuda:N")
    count = config.engine.processes
    if count != "auto" and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise UserError(f"engine.processes={count} is neither auto nor a number of processes")


def _check_source(model: DictConfig) -> None:
    if not model.source and not model.path:
        raise UserError(
            "model.source is not set: give it a name on the Hugging Face hub, or set model.path to a folder"
        )
    if model.source and not re.fullmatch(r"pkg://.+|\w[\w.-]*(/\w[\w.-]*)?", model.source, re.ASCII):
        raise UserError(
            f"model.source={model.source} is no name on the Hugging Face hub, as owner/name is: "
            "a folder's place is model.path"
        )


READ_BY_COLUMNS = ("answer", "options", "dataset", "subset", "revision", "splits")
"""What says how a dataset is read by its columns, of a benchmark or of a task."""


def _check_benchmark(benchmark: DictConfig) -> None:
    tasks = benchmark.tasks
    if benchmark.source == "generated" and not benchmark.generator:
        raise UserError("benchmark.source=generated needs benchmark.generator, the dotted name of a function")
    if not benchmark.order or len(set(benchmark.order)) < len(benchmark.order):
        raise UserError("benchmark.order must name at least one task, and none twice")
    if benchmark.instructions in tasks:
        raise UserError(f"benchmark.instructions={benchmark.instructions} is one of the tasks: set it to null")
    for name in benchmark.order:
        if name not in tasks:
            raise UserError(
                f"benchmark.order: no task {name} in benchmark.tasks; nearest: {nearest(name, map(str, tasks))}"
            )
        look_up_metric(tasks[name].metric, f"benchmark.tasks.{name}.metric")
    _check_reading("benchmark", benchmark, benchmark)
    for name in benchmark.order:
        _check_reading(f"benchmark.tasks.{name}", tasks[name], benchmark)
    for name, rows in benchmark.counts.items():
        counts = list(rows) if OmegaConf.is_list(rows) else [rows]
        if len(counts) not in (1, 3) or not all(type(count) is int for count in counts):
            raise UserError(f"benchmark.counts.{name}={rows} must be a whole number, or three: train, eval, test")
    for split in benchmark.splits:
        if split not in ("train", "eval", "test"):
            raise UserError(f"benchmark.splits.{split}: it is train, eval or test that has another name there")
    if benchmark.edition is not None and str(benchmark.edition) not in benchmark.editions:
        known = ", ".join(map(str, benchmark.editions))
        raise UserError(f"benchmark.edition={benchmark.edition} is not one of {known or 'any: it has none'}; or null")


def _check_reading(where: str, section: DictConfig, benchmark: DictConfig) -> None:
    """Raise UserError for a key of this section that nobody would read."""
    if section.template is not None and benchmark.source == "generated":
        raise UserError(f"{where}.template is for files: benchmark.source=generated gives its prompts as they are")
    for key in READ_BY_COLUMNS:
        if section.get(key) and (benchmark.reader != "datasets" or benchmark.source == "generated"):
            raise UserError(f"{where}.{key} is for benchmark.reader=datasets: set it to null")
