"""The files of a run: written whole or not at all, and read back. Nothing here needs PyTorch."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from yaml import YAMLError  # type: ignore[import-untyped]

from trace_cl.errors import UserError
from trace_cl.names import current_name

T = TypeVar("T")

PACKAGE = Path(__file__).parent.parent
"""The installed package. `conf/` and `published/` come with it; in a checkout they are links."""

PUBLISHED = (PACKAGE / "published").resolve()
"""The paper's matrices, `<model>/<method>/matrix.csv`."""

FREE = (
    "runs_dir",
    "dry_run",
    "checkpoints",
    "checkpoint",
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
    """Write a file whole or not at all, and for good. Raises UserError where that cannot be."""
    with guard(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".tmp")
        with draft.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
        sync(path.parent)


@contextmanager
def guard(path: Path) -> Iterator[None]:
    """Say in a sentence why this place could not be written: a disk that is full or fails, a folder that is closed."""
    try:
        yield
    except Exception as error:
        # Of the libraries written in Rust one raises its own, the tokenizers' a bare Exception.
        if not isinstance(error, OSError | SafetensorError) and type(error) is not Exception:
            raise
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(
            f"{path} could not be written ({reason}): nothing finished is lost; mend that, and the same command goes on"
        ) from error


def sync(path: Path) -> None:
    """Have the system put a file, or a folder's list of files, on the disk: a renamed file is not there for good before
    its folder is."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file in a folder but the seal itself (`SEAL`), by relative path."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL):
        with path.open("rb") as file:
            found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


SEAL = "round.json"
"""The file of a checkpoint that says what it holds, to the byte."""


def sealed(content: Mapping[str, Any]) -> str:
    """An object as JSON that also holds its own checksum."""
    return as_json({"sha256": _digest(content), **content})


def unsealed(path: Path) -> dict[str, Any]:
    """What `sealed` made the file of. Raises UserError naming the file where it has been torn or altered."""
    content = whole(path, lambda: read_json(path))
    if content.pop("sha256", None) != _digest(content):
        raise UserError(f"{path} is not what the run wrote: move the run away")
    return content


def _digest(content: Mapping[str, Any]) -> str:
    # As it will be read: JSON knows no keys but texts, and sorts them as such.
    read = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def whole(path: Path, read: Callable[[], T]) -> T:
    """What `read` gives. Raises UserError naming the file where its content is not what a run writes."""
    try:
        return read()
    except (
        OSError, ValueError, KeyError, TypeError, AssertionError, RecursionError, YAMLError, OmegaConfBaseException
    ) as error:  # fmt: skip
        [reason, *_] = [*str(error).splitlines(), type(error).__name__]
        raise UserError(f"{path} is damaged ({reason.strip()}): move the run away") from error


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
    """A YAML file as plain values. Raises ValueError where it holds no mapping."""
    content = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(content, dict):
        raise ValueError("it holds no mapping")
    return {str(key): value for key, value in content.items()}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises ValueError where it holds anything else."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it holds no object")
    return content
