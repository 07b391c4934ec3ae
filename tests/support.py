"""What the tests share: composing a configuration, killing a run, and what two runs must share.

It imports no PyTorch: neither who hands the tests to the workers nor who stands in for a run needs it from here.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import hydra
import pytest
from omegaconf import DictConfig

from trace_cl.config import CONF_DIR

if TYPE_CHECKING:
    from trace_cl.strategies.base import Answerer, Example

P = ParamSpec("P")
T = TypeVar("T")

TASKS = ("C-STANCE", "FOMC", "MeetingBank")

PRELOADED = (
    "trace_cl.command",
    "trace_cl.launch.processes",
    "trace_cl.run",
    "deepspeed",
    "matplotlib.backends.backend_agg",
    "peft",
    "qpsolvers",
    "rouge_score.rouge_scorer",
    "transformers.models.llama.modeling_llama",
)
"""What a server has imported from which whole runs are forked: that takes six seconds, a run two."""


def compose(*overrides: str) -> DictConfig:
    """The configuration a command line with these overrides makes."""
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return hydra.compose("config", list(overrides))


def find_trace_root() -> Path:
    """Real TRACE data, or a skip that says why."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "trace-500"
    root = Path(os.environ.get("TRACE_ROOT", beside))
    if not root.is_dir():
        pytest.skip(f"no TRACE data: $TRACE_ROOT is not set and {beside} is not there")
    return root


def find_layout(name: str) -> Path:
    """Rows of a published benchmark in the layout that it is published in, or a skip that says why."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    places = [Path(os.environ["TRACE_ROOT"]).parent] if "TRACE_ROOT" in os.environ else []
    for place in (*places, beside):
        if (place / "layouts" / name).is_dir():
            return place / "layouts" / name
    pytest.skip(f"no layouts/{name}, neither beside $TRACE_ROOT nor in {beside}")


class Killed(Exception):
    """Stands for a kill -9: nothing in the project catches it."""


def killed_after(act: Callable[P, None]) -> Callable[P, None]:
    """The end of a run as soon as something is done."""

    def act_and_die(*args: P.args, **kwargs: P.kwargs) -> None:
        act(*args, **kwargs)
        raise Killed

    return act_and_die


def results(folder: Path) -> dict[str, bytes]:
    """The files that two runs of one configuration must share to the byte."""
    predictions = {str(file.relative_to(folder)): file.read_bytes() for file in folder.glob("predictions/*/*.jsonl")}
    return {"matrix": (folder / "matrix.csv").read_bytes(), **predictions}


def everything(folder: Path) -> dict[str, object]:
    """What a run that was interrupted must share with one that was not: results, weights, and every step but its
    clock."""
    trained = folder / "train.jsonl"
    steps = [json.loads(line) for line in trained.read_text().splitlines()] if trained.exists() else []
    weights = {file.name: file.read_bytes() for file in (folder / "checkpoint").glob("*.safetensors")}
    timeless = [{key: value for key, value in step.items() if key != "seconds"} for step in steps]
    return {**results(folder), **weights, "train.jsonl": timeless}


def killed_at(act: Callable[P, T], call: int) -> Callable[P, T]:
    """The end of a run as something is about to be done for the `call`-th time."""
    calls = count(1)

    def act_or_die(*args: P.args, **kwargs: P.kwargs) -> T:
        if next(calls) == call:
            raise Killed
        return act(*args, **kwargs)

    return act_or_die


def only_run(runs: Path) -> Path:
    """The directory of the one run under `runs`."""
    [folder] = runs.glob("*/*/*/seed*")
    return folder


def shown(capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """The cells of the printed table by row, and under "" what its columns are."""
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def no_pictures(*_: object) -> dict[str, bytes]:
    """What a run draws of its result: nothing, where its pictures would take longer than its training."""
    return {}


class Mute:
    """An answerer of which nothing is expected: a double says what it does say itself."""

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int | None = None) -> list[str]:
        raise AssertionError("nobody was to ask for answers")

    def sample(self, prompts: Sequence[Sequence[int]], tokens: int, top_k: int, seed: int) -> list[list[int]]:
        raise AssertionError("nobody was to ask for samples")

    def encode(self, text: str) -> list[int]:
        raise AssertionError("nobody was to ask for tokens")

    def adapted(self, examples: Sequence["Example"], steps: int, rate: float, pull: float) -> "Answerer":
        raise AssertionError("nobody was to adapt")


@dataclass
class FakeTask:
    """A task of twelve examples of made-up tokens."""

    name: str
    seed: int
    epochs: int = 1
    answer_tokens: int = 8
    train: list["Example"] = field(init=False)

    def __post_init__(self) -> None:
        from trace_cl.strategies.base import Example

        draw = Random(self.seed)
        self.train = [
            Example([draw.randrange(1, 999) for _ in range(draw.randrange(2, 20))], [draw.randrange(1, 99)] * 3)
            for _ in range(12)
        ]
