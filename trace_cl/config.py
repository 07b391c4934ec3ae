"""The typed schema of a run's configuration, and what can be checked of it before anything is loaded.

Hydra composes `conf/` over these classes: a key that is not here is refused, a value of another type too. No class of
the project takes a configuration; each is handed its values. PyTorch is not imported here: a wrong word is answered at
once.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import II, MISSING, DictConfig, OmegaConf
from omegaconf.errors import InterpolationValidationError

from trace_cl import metrics
from trace_cl.errors import UserError, nearest
from trace_cl.names import look_up
from trace_cl.strategies.selection import Selection

CONF_DIR = Path(__file__).parent / "conf"

_YES, _NO = ("true", "yes", "y", "on", "1"), ("false", "no", "n", "off", "0")


@dataclass
class TaskConfig:
    """One task: how long it is learned, how it is scored, and how many generated tokens can change its score.

    `metric` is a name of `metrics.METRICS`, or the dotted name of a metric of one's own.
    """

    epochs: int = MISSING
    metric: str = MISSING
    answer_tokens: int = MISSING


@dataclass
class BenchmarkConfig:
    """The tasks, in the order they are learned, and where their examples come from.

    `source` is `files` (`root` holds a folder a task) or `generated` (by the function that `generator` names, dotted).
    `instructions` is the general instruction set that Replay learns from; `null`: there is none. `counts` are the
    numbers of training examples, by task and instruction set, by which a dry run plans where the files are missing.
    """

    name: str = MISSING
    source: str = "files"
    root: str | None = None
    generator: str | None = None
    order: list[str] = MISSING
    tasks: dict[str, TaskConfig] = MISSING
    instructions: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    max_train: int | None = None
    max_test: int | None = None
    drop_leaked: bool = False


@dataclass
class ModelConfig:
    """A model by its Hugging Face name (`source`), or a local copy (`path`); `architecture` are its config's sizes.

    `training.learning_rate` is the first of the two rates, or the second where an adapter is trained in its stead.
    """

    name: str = MISSING
    source: str | None = None
    path: str | None = None
    architecture: dict[str, Any] | None = None
    learning_rate: float = MISSING
    adapter_learning_rate: float | None = None
    dtype: str | None = None


@dataclass
class TrainingConfig:
    """The protocol of DESIGN section 6. `tokens_per_batch` bounds a micro-batch: it changes speed, not results."""

    global_batch: int = 128
    learning_rate: float = II("model.learning_rate")
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    prompt_tokens: int = 1024
    answer_tokens: int = 512
    tokens_per_batch: int = 8192


@dataclass
class EngineConfig:
    """How training is spread over devices: it changes speed and memory, not results.

    `name` is `torch` (one device), `deepspeed`, or `auto`: deepspeed where there are several devices, or a model is too
    large for one. `processes` is how many of this machine's devices take part: `auto` is all of its GPUs.
    """

    name: str = MISSING
    processes: Any = "auto"
    zero_stage: int = 2
    offload_optimizer: bool = False
    gather: bool | None = None
    gradient_checkpointing: bool = False


@dataclass
class EvaluationConfig:
    """`split` is what is scored after each round; `zero_shot` scores the base model too."""

    split: str = "test"
    zero_shot: bool = True
    tokens_per_batch: int = 32768


@dataclass
class MetricsConfig:
    """`standard`, or `trace_compat` for figures made exactly as TRACE's own scorers make them."""

    variant: str = "standard"


@dataclass
class Config:
    """Everything one run is made of. `dry_run` is a boolean, or `json` for a plan that a program reads."""

    strategy: dict[str, Any] = MISSING
    logger: dict[str, Any] = MISSING
    selection: Selection = MISSING
    benchmark: BenchmarkConfig = MISSING
    model: ModelConfig = MISSING
    training: TrainingConfig = field(default_factory=TrainingConfig)
    engine: EngineConfig = MISSING
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    hft: bool = False
    seed: int = 1
    device: str = "auto"
    checkpoints: str = "newest"
    runs_dir: str = "runs"
    dry_run: Any = False


ConfigStore.instance().store(name="schema", node=Config)
OmegaConf.register_new_resolver("share", lambda whole, parts: max(1, int(whole) // int(parts)), replace=True)


def as_dict(config: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """A configuration as plain values, every reference resolved."""
    content = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def run_folder(config: DictConfig, method: str) -> Path:
    """`<runs_dir>/<benchmark>/<model>/<method>/seed<k>`."""
    return Path(config.runs_dir, config.benchmark.name, config.model.name, method, f"seed{config.seed}")


def only_planned(config: DictConfig) -> bool:
    """Whether this is a dry run."""
    return str(config.dry_run).lower() in (*_YES, "json")


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
    """Raise UserError, naming the key, for a value the schema's types let through but no run could use."""
    try:
        given = as_dict(config)
    except InterpolationValidationError as error:
        reference = re.search(r"\$\{.+?\}", str(error))
        value = reference[0] if reference else "a reference"
        raise UserError(f"{error.full_key}={value}, which is not set: give one of the two a value") from error
    for key in given:
        if key not in Config.__dataclass_fields__:
            raise UserError(f"{key}: no such key; nearest: {nearest(key, Config.__dataclass_fields__)}")
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"{missing[0]} is not set: give it a value")
    for key, allowed in (
        ("metrics.variant", list(metrics.VARIANTS)),
        ("evaluation.split", ["eval", "test"]),
        ("checkpoints", ["newest", "all"]),
        ("model.dtype", [None, "bf16", "fp32"]),
        ("benchmark.source", ["files", "generated"]),
        ("engine.name", ["auto", "torch", "deepspeed"]),
        ("engine.zero_stage", [0, 2, 3]),
    ):
        if (value := OmegaConf.select(config, key)) not in allowed:
            raise UserError(f"{key}={value} is not one of {', '.join(map(str, allowed))}")
    if str(config.dry_run).lower() not in (*_YES, *_NO, "json"):
        raise UserError(f"dry_run={config.dry_run} is not one of true, false, json")
    for key in (
        "training.global_batch",
        "training.learning_rate",
        "training.eps",
        "training.clip_norm",
        "training.prompt_tokens",
        "training.answer_tokens",
        "training.tokens_per_batch",
        "evaluation.tokens_per_batch",
        "benchmark.max_train",
        "benchmark.max_test",
    ):
        if (value := OmegaConf.select(config, key)) is not None and not value > 0:
            raise UserError(f"{key}={value} must be greater than 0")
    if not config.model.source and not config.model.path:
        raise UserError(
            "model.source is not set: give it a name on the Hugging Face hub, or set model.path to a folder"
        )
    _check_benchmark(config.benchmark)


def _check_benchmark(benchmark: DictConfig) -> None:
    tasks = benchmark.tasks
    if benchmark.source == "generated" and not benchmark.generator:
        raise UserError("benchmark.source=generated needs benchmark.generator, the dotted name of a function")
    if not benchmark.order or len(set(benchmark.order)) < len(benchmark.order):
        raise UserError("benchmark.order must name at least one task, and none twice")
    if benchmark.instructions in benchmark.order:
        raise UserError(f"benchmark.instructions={benchmark.instructions} is one of the tasks: set it to null")
    for name in benchmark.order:
        if name not in tasks:
            raise UserError(
                f"benchmark.order: no task {name} in benchmark.tasks; nearest: {nearest(name, map(str, tasks))}"
            )
        look_up_metric(tasks[name].metric, f"benchmark.tasks.{name}.metric")
        for key in ("epochs", "answer_tokens"):
            if tasks[name][key] < 1:
                raise UserError(f"benchmark.tasks.{name}.{key}={tasks[name][key]} must be at least 1")
