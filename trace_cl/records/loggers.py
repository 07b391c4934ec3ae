"""Where a run's curves go besides its own files: nowhere, TensorBoard, Weights & Biases, or MLflow.

The names are the same everywhere: `train/…` over the optimizer steps of the whole run, `score/<task>`, `OP`, `BWT`
over the rounds (round 0: the base model). A run that goes on goes on in the same curves. What it wrote of a round
that was broken off is learned and written again: TensorBoard drops the first writing, the others keep it and pass over
the second, which by the same seed says the same. (Weights & Biases cannot in offline mode: nothing tells it what an
earlier start has written.)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from omegaconf import OmegaConf

from trace_cl import metrics
from trace_cl.errors import UserError
from trace_cl.records.files import flatten, write

NO_CURVES = {"round", "phase", "epoch", "step", "tokens", "answer_tokens", "seconds"}
"""What a line of train.jsonl holds besides what is worth a curve."""


class Logger(Protocol):
    """What a run asks of a logger. It is made before anything is loaded, so that a missing package is told at once."""

    def begin(self, folder: Path, config: Mapping[str, Any], steps: int) -> None:
        """The run in `folder` starts, or goes on after its first `steps` optimizer steps."""

    def log(self, axis: str, at: int, values: Mapping[str, float]) -> None:
        """Values at a place of an axis, which is `step` or `round`."""

    def close(self) -> None:
        """The run ends, well or not."""


def training_curves(line: Mapping[str, Any]) -> dict[str, float]:
    """A line of train.jsonl under the curves' names: loss, learning rate, speed, and what the strategy tells."""
    curves = {key: value for key, value in line.items() if key not in NO_CURVES and isinstance(value, int | float)}
    milliseconds = max(1, round(1000 * line["seconds"]))
    curves["tokens_per_second"] = 1000 * line["tokens"] / milliseconds
    return {f"train/{key}": float(value) for key, value in curves.items()}


def score_curves(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores by task under the curves' names."""
    return {f"score/{task}": score for task, score in scores.items()}


@dataclass
class NoLogger:
    """The default."""

    def begin(self, folder: Path, config: Mapping[str, Any], steps: int) -> None:
        """Nothing to begin."""

    def log(self, axis: str, at: int, values: Mapping[str, float]) -> None:
        """Nothing to log to."""

    def close(self) -> None:
        """Nothing to close."""


@dataclass
class TensorBoard:
    """Event files in `<run>/tensorboard/`."""

    def __post_init__(self) -> None:
        need("tensorboard", "tensorboard")

    def begin(self, folder: Path, config: Mapping[str, Any], steps: int) -> None:
        """Go on in the same folder; what lies there of later steps is dropped by whoever reads it."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=steps + 1)
        self.writer.add_text("config", f"```yaml\n{OmegaConf.to_yaml(OmegaConf.create(dict(config)))}```", steps)

    def log(self, axis: str, at: int, values: Mapping[str, float]) -> None:
        """A scalar a value."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, at)

    def close(self) -> None:
        """Write out what is still in memory."""
        self.writer.close()


@dataclass
class WeightsAndBiases:
    """A run of a wandb project; `mode` is `online` or `offline` (files in `<run>/wandb/`, for `wandb sync`)."""

    project: str = "trace-cl"
    entity: str | None = None
    mode: str = "online"

    def __post_init__(self) -> None:
        if self.mode not in ("online", "offline"):
            raise ValueError(f"logger.mode={self.mode} is not one of online, offline")
        self.wandb = need("wandb", "wandb")

    def begin(self, folder: Path, config: Mapping[str, Any], steps: int) -> None:
        """Open the run, or the one that an earlier start opened. Raises UserError where wandb refuses."""
        try:
            self.run = self.wandb.init(
                project=self.project,
                entity=self.entity,
                mode=self.mode,
                id=remembered(folder / "wandb" / "id", lambda: uuid4().hex),
                resume="allow",
                name=name_of(folder),
                config=dict(config),
                dir=str(folder),
            )
        except self.wandb.Error as error:
            raise UserError(f"logger=wandb: {first_line(error)} (logger.mode=offline needs no account)") from error
        figures = [figure.name for figure in metrics.FIGURES]
        for axis, names in {"step": ["train/*"], "round": ["score/*", *figures]}.items():
            self.run.define_metric(axis)
            for name in names:
                self.run.define_metric(name, step_metric=axis)
        self.logged = int(self.run.summary.get("step") or 0)

    def log(self, axis: str, at: int, values: Mapping[str, float]) -> None:
        """The values in one row, with their place on their own axis; wandb's own count of rows is of no use here."""
        if axis == "round" or at > self.logged:
            self.run.log({**values, axis: at})

    def close(self) -> None:
        """Hand over what is left."""
        self.run.finish()


@dataclass
class MLflow:
    """A run of an MLflow experiment; without `tracking_uri` it goes where MLFLOW_TRACKING_URI says."""

    experiment: str = "trace-cl"
    tracking_uri: str | None = None

    def __post_init__(self) -> None:
        self.mlflow = need("mlflow", "mlflow")

    def begin(self, folder: Path, config: Mapping[str, Any], steps: int) -> None:
        """Open the run, or the one that an earlier start opened. Raises UserError where MLflow refuses."""

        def create() -> str:
            found = self.client.get_experiment_by_name(self.experiment)
            experiment = found.experiment_id if found else self.client.create_experiment(self.experiment)
            run: str = self.client.create_run(experiment, run_name=name_of(folder)).info.run_id
            for key, value in flatten(config):
                self.client.log_param(run, key, value)
            return run

        try:
            self.client = self.mlflow.MlflowClient(tracking_uri=self.tracking_uri)
            self.run = remembered(folder / "mlflow-run", create)
            self.client.update_run(self.run, "RUNNING")
            history = self.client.get_metric_history(self.run, "train/loss")
        except self.mlflow.exceptions.MlflowException as error:
            raise UserError(f"logger=mlflow: {first_line(error)} (logger.tracking_uri={self.tracking_uri})") from error
        self.logged = max((metric.step for metric in history), default=0)

    def log(self, axis: str, at: int, values: Mapping[str, float]) -> None:
        """Each value with its place; a metric of MLflow has its own axis. (Into SQLite: 22 ms a step.)"""
        if axis == "round" or at > self.logged:
            now = self.mlflow.utils.time.get_current_time_millis()
            metrics = [self.mlflow.entities.Metric(name, value, now, at) for name, value in values.items()]
            self.client.log_batch(self.run, metrics)

    def close(self) -> None:
        """Mark the run as ended."""
        self.client.set_terminated(self.run)


def need(module: str, extra: str) -> Any:
    """The module. Raises UserError, with the command that installs it, where it is missing."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"logger={extra} needs {error.name}: pip install 'trace-cl[{extra}]'") from error


def remembered(path: Path, make: Callable[[], str]) -> str:
    """The id in a file of the run's folder, made where there is none: by it a later start finds the same curves."""
    if not path.exists():
        write(path, make())
    return path.read_text()


def name_of(folder: Path) -> str:
    """`<benchmark>/<model>/<method>/seed<k>`."""
    return "/".join(folder.parts[-4:])


def first_line(error: Exception) -> str:
    """What an error of a library says, in brief."""
    lines: Sequence[str] = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
