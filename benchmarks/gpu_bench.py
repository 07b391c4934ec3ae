"""What the parts of `gpu.py` share: how large everything is, what is measured on, and where figures go."""

import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from time import time

import torch
from omegaconf import DictConfig
from transformers import PreTrainedTokenizerBase

from trace_cl.choices import compose
from trace_cl.config import check
from trace_cl.data.batches import Encoder
from trace_cl.data.benchmark import Benchmark, load_data, prepare
from trace_cl.tiny import CHECKPOINT
from trace_cl.training.layout import device_and_dtype
from trace_cl.training.model import load_tokenizer


@dataclass(frozen=True)
class Row:
    """A figure: of which part and subject, what it is, and what stands beside it. Without a value it tells of something
    that was not measured, and why."""

    part: str
    subject: str
    quantity: str
    value: float | None
    beside: str = ""


@dataclass(frozen=True)
class RowFile:
    """The figures of a run, a JSON line each, kept as they come."""

    file: Path

    def add(self, row: Row) -> None:
        with self.file.open("a") as lines:
            lines.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")

    def read(self) -> list[Row]:
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [Row(**json.loads(line)) for line in lines]

    def find(self, subject: str, quantity: str) -> float | None:
        """A figure of this part or one before it."""
        return next((row.value for row in self.read() if (row.subject, row.quantity) == (subject, quantity)), None)


@dataclass(frozen=True)
class Scale:
    """How large everything is. `model` and `second` are overrides that name a model, `data` those of the benchmark."""

    model: Sequence[str]
    second: Sequence[str]
    data: Sequence[str]
    product: int
    """Rows of the square matrices whose product is timed."""
    global_batch: int = 128
    steps: int = 4
    """Of each method at most; the first is not counted."""
    asked: int = 3
    """Prompts of each task where batches are held against one prompt at a time."""
    answer_tokens: int = 32
    """Of each answer there."""
    timed_tokens: int = 64
    """After so many TRACE's way is stopped: the others take at least as long."""


LARGE = Scale(
    model=["model=llama2-chat-7b"],
    second=["model=llama3.2-1b"],
    data=["benchmark.max_train=100", "benchmark.max_test=80"],
    product=8192,
)

_MILLION = [
    "model.architecture.vocab_size=2560",
    "model.architecture.hidden_size=128",
    "model.architecture.intermediate_size=352",
    "model.architecture.num_hidden_layers=4",
    "model.architecture.num_attention_heads=4",
    "model.architecture.num_key_value_heads=4",
    "++model.architecture.head_dim=32",
]

SMALL = Scale(
    model=["model=llama2-chat-7b", *_MILLION],
    second=["model=llama3.2-1b", *_MILLION],
    data=["benchmark.max_train=40", "benchmark.max_test=4"],
    product=1024,
    global_batch=16,
    steps=3,
    asked=1,
)


@dataclass
class Bench:
    """What a part measures with. What cannot be done by the `deadline`, in seconds since 1970, is not begun."""

    part: str
    scale: Scale
    rows: RowFile
    overrides: Sequence[str] = ()
    deadline: float = field(default_factory=lambda: time() + 3600)

    def compose(self, *overrides: str) -> DictConfig:
        """The configuration of the measured model, real data, and what a method adds."""
        scale = self.scale
        batch = f"training.global_batch={scale.global_batch}"
        config = compose([*scale.model, *scale.data, batch, *overrides, *self.overrides])
        check(config)
        return config

    def second(self) -> "Bench":
        """The same with the second model for the measured one."""
        return replace(self, scale=replace(self.scale, model=self.scale.second))

    @cached_property
    def place(self) -> tuple[torch.device, torch.dtype]:
        """The device, and the dtype that models have there."""
        config = self.compose()
        return device_and_dtype(config.device, config.model.dtype)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(str(CHECKPOINT))

    @cached_property
    def benchmark(self) -> Benchmark:
        """The tasks. Raises UserError where there are none."""
        config = self.compose()
        encoder = Encoder(self.tokenizer, config.training.total_tokens, config.evaluation.prompt_tokens)
        return prepare(config.benchmark, load_data(config.benchmark, instructions=False), "test", encoder)

    def tell(self, subject: str, quantity: str, value: float | None, beside: str = "") -> None:
        """A figure, or (None) why there is none."""
        self.rows.add(Row(self.part, subject, quantity, value, beside))


def drop_what_is_left() -> None:
    """Give the device's memory back, so that something else has room."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


Part = Callable[[Bench], None]
