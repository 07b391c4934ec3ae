"""A benchmark made ready for one model: its tasks encoded, in the order they are learned."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from trace_cl.config import BenchmarkConfig
from trace_cl.data import files as data
from trace_cl.data.batches import Encoder
from trace_cl.data.files import TaskData
from trace_cl.errors import UserError
from trace_cl.strategies.base import Example, Round


@dataclass(frozen=True)
class Task:
    """One task as the runner sees it: what to learn from, and what to answer.

    `prompts`, `references` and `indices` (rows of the file) belong to the split that is scored.
    """

    name: str
    epochs: int
    metric: str
    answer_tokens: int
    train: list[Example]
    prompts: list[list[int]]
    references: list[str]
    indices: list[int]


@dataclass(frozen=True)
class Benchmark:
    """The tasks in order, the general instructions for Replay, and a checksum over everything that was read."""

    tasks: list[Task]
    instructions: list[Example]
    sha256: str

    def rounds(self, seed: int) -> list[Round]:
        """Rounds 1..T as a strategy sees them."""
        count = len(self.tasks)
        return [Round(seed, self.tasks[:t], self.instructions, last=t == count) for t in range(1, count + 1)]


def load_data(config: BenchmarkConfig) -> dict[str, TaskData]:
    """The benchmark's tasks and instruction set, by name. Raises UserError at the first fault."""
    return data.load(config.name, config.root, config.order, config.instructions)


def prepare(config: BenchmarkConfig, loaded: Mapping[str, TaskData], split: str, encoder: Encoder) -> Benchmark:
    """Encode what a run needs: the training splits, and the prompts of the split that is scored.

    Raises UserError where no example is left to score.
    """

    def training(name: str) -> list[Example]:
        rows = loaded[name].splits["train"].to_list()[: config.max_train]
        return [encoder.example(row["prompt"], row["answer"]) for row in rows]

    tasks = []
    for name in config.order:
        settings, task = config.tasks[name], loaded[name]
        rows = task.splits[split].to_list()[: config.max_test]
        left_out = task.leaked(split) if config.drop_leaked else set()
        scored = {index: row for index, row in enumerate(rows) if index not in left_out}
        if not scored:
            raise UserError(f"{name}: benchmark.drop_leaked=true leaves no {split} example; set it to false")
        tasks.append(
            Task(
                name=name,
                epochs=settings.epochs,
                metric=settings.metric,
                answer_tokens=settings.answer_tokens,
                train=training(name),
                prompts=[encoder.prompt(row["prompt"]) for row in scored.values()],
                references=[row["answer"] for row in scored.values()],
                indices=list(scored),
            )
        )
    checksums = [task.sha256(part) for task in loaded.values() for part in task.splits]
    sha256 = hashlib.sha256(" ".join(checksums).encode()).hexdigest()
    return Benchmark(tasks, training(config.instructions), sha256)
