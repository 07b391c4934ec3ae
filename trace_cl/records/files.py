"""The files of a run: written whole or not at all, and read back. Nothing here needs PyTorch."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from trace_cl.names import current_name

PACKAGE = Path(__file__).parent.parent
"""The installed package. `conf/` and `published/` come with it; in a checkout they are links."""

PUBLISHED = (PACKAGE / "published").resolve()
"""The paper's matrices, `<model>/<method>/matrix.csv`."""

FREE = (
    "runs_dir",
    "dry_run",
    "checkpoints",
    "benchmark.source",
    "benchmark.root",
    "benchmark.generator",
    "benchmark.counts",
    "training.tokens_per_batch",
    "evaluation.tokens_per_batch",
    "engine",
    "model.learning_rate",
    "model.adapter_learning_rate",
    "logger",
)
"""Settings, or groups of them, a run may continue under others of: where things lie or are logged, how fast they go,
and the rates of which `training.learning_rate` is the one in use."""


def write(path: Path, content: str | bytes) -> None:
    """Write a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    with draft.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


def read_matrix(path: Path) -> pd.DataFrame:
    """A matrix.csv as it was written, to the last digit: indexed by round, a column a task, NaN above the diagonal."""
    frame = pd.read_csv(path, dtype=str).set_index("round").astype(float)
    frame.index = frame.index.astype(int)
    return frame


def as_json(value: object) -> str:
    """Readable JSON; NaN is refused, because JSON has none."""
    return json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A nested configuration as `a.b.c` keys; classes go by the names they have today."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", current_name(value) if key == "_target_" else value


def is_free(key: str) -> bool:
    """Whether `FREE` names this key, or a group it is in."""
    return any(f"{key}.".startswith(f"{free}.") for free in FREE)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as plain values."""
    content = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
