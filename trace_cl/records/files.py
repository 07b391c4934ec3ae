"""The files of a run: written whole or not at all, and read back. Nothing here needs PyTorch.

What is read is believed only where a run could have written it: anything else is a UserError that names the file.
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from fnmatch import fnmatchcase
from functools import lru_cache
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
    "calibrate",
    "checkpoints",
    "checkpoint",
    "benchmark.source",
    "benchmark.root",
    "benchmark.reader",
    "benchmark.splits",
    "benchmark.editions",
    "benchmark.tasks.*.dataset",
    "benchmark.tasks.*.subset",
    "benchmark.tasks.*.revision",
    "benchmark.generator",
    "benchmark.general",
    "benchmark.abilities",
    "benchmark.counts",
    "benchmark.orders",
    "training.tokens_per_batch",
    "evaluation.tokens_per_batch",
    "evaluation.reference_loss",
    "strategy.memory_gradients",
    "engine",
    "model.learning_rate",
    "model.adapter_learning_rate",
    "model.prompt_learning_rate",
    "model.adapter_targets",
    "logger",
)
"""Settings, or groups of them, a run may continue under others of: where things lie or are logged, how fast they go,
what is measured beside the scores, and what suits the model, of which other settings say what is in use. (What is read
is guarded by its checksum, `data.sha256`.)"""


def write(path: Path, content: str | bytes) -> None:
    """Write a file of a run whole or not at all, and for good. Raises UserError where that cannot be."""
    with guard(path):
        put(path, content)


def put(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, and for good. Raises OSError where that cannot be."""
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
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
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


def sync_all(folder: Path) -> None:
    """The same for a folder and all that is in it."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def whole(path: Path, read: Callable[[], T]) -> T:
    """What `read` gives. Raises UserError naming the file where its content is not what a run writes."""
    try:
        return read()
    except (
        *(OSError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError),
        *(YAMLError, OmegaConfBaseException),
    ) as error:
        reason = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
        raise UserError(f"{path} is damaged ({reason}): move the run away") from error


def read_matrix(path: Path) -> pd.DataFrame:
    """A matrix.csv as it was written, to the last digit: indexed by round, a column a task, NaN above the diagonal
    where tasks to come were not scored.

    Raises UserError unless rounds 1, 2, … have each a score from 0 to 100 for every task seen, and for no other or all.
    """
    return whole(path, lambda: _matrix(path.read_text(encoding="utf-8")))


def _matrix(text: str) -> pd.DataFrame:
    header, *lines = [line.removesuffix("\r").split(",") for line in text.split("\n") if line.strip()] or [[]]
    first, tasks = header[:1], header[1:]
    if first != ["round"] or not tasks or len(set(tasks)) < len(tasks) or not all(map(_is_task, tasks)):
        raise ValueError("its header is not round and the names of different tasks")
    if [line[0] for line in lines] != [str(t) for t in range(1, len(lines) + 1)] or not 0 < len(lines) <= len(tasks):
        raise ValueError("its rounds are not 1, 2, … up to the number of tasks")
    rows = []
    for t, (_, *cells) in enumerate(lines, start=1):
        if len(cells) != len(tasks) or (any(cells[t:]) and not all(cells[t:])):
            raise ValueError(f"round {t} has not a score for each of the first {t} of {len(tasks)} tasks alone, or all")
        rows.append([_score(cell, t) if cell or place < t else math.nan for place, cell in enumerate(cells)])
    return pd.DataFrame(rows, index=pd.Index(range(1, len(rows) + 1), name="round"), columns=tasks)


def _is_task(name: str) -> bool:
    return bool(name.strip()) and name.isprintable() and "/" not in name


def _score(cell: str, t: int) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?(e-?\d+)?", cell, re.ASCII) or not is_score(float(cell)):
        raise ValueError(f"round {t}: {cell[:20]!r} is no score from 0 to 100")
    return float(cell)


def is_score(value: object) -> bool:
    """Whether it is a number from 0 to 100."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100


def is_loss(value: object) -> bool:
    """Whether it is a loss that was measured, or None for one that was not."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value >= 0)


def as_json(value: object) -> str:
    """Readable JSON; NaN is refused, because JSON has none."""
    return json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A nested configuration as `a.b.c` keys; classes go by the names they have today."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", current_name(value) if key == "_target_" and isinstance(value, str) else value


def is_free(key: str) -> bool:
    """Whether `FREE` names this key, or a group it is in."""
    return any(f"{key}.".startswith(f"{free}.") or fnmatchcase(key, free) for free in FREE)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as plain values. Raises UserError where it holds no mapping."""
    return whole(path, lambda: deepcopy(_settings(path.read_text(encoding="utf-8"))))


@lru_cache(maxsize=1024)  # parsing is slow, and a run's own file is read again after every round
def _settings(text: str) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.create(text))
    if not isinstance(content, dict) or not content:
        raise ValueError("it holds no settings")
    _check_text(content)
    return {str(key): value for key, value in content.items()}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises UserError where it does not."""
    return whole(path, lambda: as_object(path.read_text(encoding="utf-8")))


def as_object(text: str) -> dict[str, Any]:
    """A JSON object. Raises ValueError for what is none, or holds what JSON has no words for."""
    content = json.loads(text, parse_constant=_refuse)
    if not isinstance(content, dict):
        raise ValueError("it holds no object")
    _check_text(content)
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _check_text(content: dict[Any, Any]) -> None:
    """Raise ValueError for halves of characters (lone surrogates), which no file and no terminal takes."""
    json.dumps(content, ensure_ascii=False, default=str).encode()
