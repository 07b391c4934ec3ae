"""A benchmark made ready for one model: its tasks encoded, in the order they are learned."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

from trace_cl.config import BenchmarkConfig
from trace_cl.data.batches import Encoder
from trace_cl.data.files import SPLITS, TaskData, generate_abilities, generate_rows, generate_tasks
from trace_cl.data.readers import cl_benchmark, natural_instructions, trace
from trace_cl.data.readers import datasets as columns
from trace_cl.data.readers.template import Reading
from trace_cl.errors import UserError
from trace_cl.strategies.base import Example, Round


@dataclass(frozen=True)
class Task:
    """One task as the runner sees it: what to learn from, and what to answer.

    `prompts` (token ids), `questions` (the same as texts), `references` and `indices` (rows of the file) belong to the
    split that is scored.
    """

    name: str
    epochs: int
    metric: str
    answer_tokens: int
    train: list[Example]
    prompts: list[list[int]]
    questions: list[str]
    references: list[str]
    indices: list[int]


@dataclass(frozen=True)
class Benchmark:
    """The tasks in order, the general instructions (none where they are not asked for), checksums of all that was
    read, by name; and, of which nothing is learned and which a benchmark may lack, general text, and exercises by
    general ability."""

    tasks: list[Task]
    instructions: list[Example]
    checksums: dict[str, str]
    general: list[Example] = field(default_factory=list)
    abilities: dict[str, list[Example]] = field(default_factory=dict)

    def rounds(self, seed: int, global_batch: int) -> list[Round]:
        """Rounds 1..T as a strategy sees them."""
        count = len(self.tasks)
        return [
            Round(seed, self.tasks[:t], self.instructions, last=t == count, global_batch=global_batch)
            for t in range(1, count + 1)
        ]


Reader = Callable[[Path, str, Reading, Sequence[str]], TaskData]

READERS: dict[str, Reader] = {
    "trace": trace.read_task,
    "cl_benchmark": cl_benchmark.read_task,
    "natural_instructions": natural_instructions.read_task,
}
"""By `benchmark.reader` what reads a task of a folder. Besides, `datasets` needs no folder."""


def load_data(config: BenchmarkConfig, instructions: bool) -> dict[str, TaskData]:
    """The benchmark's tasks, and with `instructions` its instruction set, by name. Raises UserError at the first
    fault."""
    wanted: dict[str, Sequence[str]] = dict.fromkeys(config.order, SPLITS)
    if instructions and config.instructions is not None:
        wanted[config.instructions] = ("train",)
    if config.generator is not None and config.source == "generated":
        return generate_tasks(config.generator, wanted)
    readings = {name: Reading.of(config, name) for name in wanted}
    if config.reader == "datasets":
        root = None if config.root is None else Path(config.root)
        return {name: columns.read_task(root, name, readings[name], splits) for name, splits in wanted.items()}
    folder = _folder(config)
    read_task = READERS[config.reader]
    loaded = {name: read_task(folder, name, readings[name], splits) for name, splits in wanted.items()}
    for name in config.order:
        _check_edition(config, folder, loaded[name])
    return loaded


def _folder(config: BenchmarkConfig) -> Path:
    """Where the tasks lie: `root`, or the folder of the edition in it."""
    if config.root is None:
        variables = re.findall(r"oc\.env:(\w+)", str(OmegaConf.to_container(config, resolve=False)))
        places = " or ".join(["benchmark.root=DIR", *(f"${name}" for name in variables)])
        raise UserError(
            f"benchmark={config.name} needs its data: set {places} to the folder that holds a folder a task"
        )
    root = Path(config.root)
    own = None if config.edition is None else root / config.editions[str(config.edition)].folder
    return own if own is not None and own.is_dir() else root


def _check_edition(config: BenchmarkConfig, folder: Path, task: TaskData) -> None:
    """Raise UserError for a task that is not of the edition, by its number of training rows."""
    train = None if config.edition is None else config.editions[str(config.edition)].train
    if train is None:
        return
    smaller = max((other for e in config.editions.values() if (other := e.train or train) < train), default=0)
    if not smaller < (rows := len(task.splits["train"])) <= train:
        raise UserError(
            f"{folder / task.name} has {rows} training rows, and edition {config.edition} has {train}: set "
            "benchmark.edition to the one that lies there, or to null"
        )


def published(config: BenchmarkConfig, name: str) -> dict[str, int]:
    """How many rows the splits of a task, or of the instruction set, are published to have, as far as that is known."""
    counts = config.counts.get(name, [])
    known = dict(zip(SPLITS, [counts] if isinstance(counts, int) else counts, strict=False))
    if config.edition is None or name not in config.tasks:
        return known
    train = config.editions[str(config.edition)].train
    return {split: rows for split, rows in known.items() if split != "train"} | ({"train": train} if train else {})


def count_only(config: BenchmarkConfig, instructions: bool) -> Benchmark | None:
    """The benchmark with examples that can be counted and nothing else (`benchmark.counts`), where nobody says in which
    folder its files lie; else None."""
    wanted = [*config.order, *([config.instructions] if instructions and config.instructions else [])]
    counts = {name: published(config, name).get("train") for name in wanted}
    if config.source != "files" or config.root is not None or None in counts.values():
        return None

    def examples(name: str) -> list[Example]:
        return [Example([], [])] * min(count for count in (counts[name], config.max_train) if count is not None)

    settings = config.tasks
    tasks = [
        Task(
            name=name,
            epochs=config.epochs or settings[name].epochs,
            metric=settings[name].metric,
            answer_tokens=settings[name].answer_tokens,
            train=examples(name),
            prompts=[],
            questions=[],
            references=[],
            indices=[],
        )
        for name in config.order
    ]
    return Benchmark(tasks, [example for name in wanted[len(tasks) :] for example in examples(name)], {})


def checksums(loaded: Mapping[str, TaskData]) -> dict[str, str]:
    """A checksum of each task's splits."""
    return {name: _combined([task]) for name, task in loaded.items()}


def combined_checksum(config: BenchmarkConfig) -> str:
    """The one checksum, over tasks and instruction set, that runs of earlier versions hold."""
    return _combined(load_data(config, instructions=True).values())


def _combined(tasks: Iterable[TaskData]) -> str:
    parts = [task.sha256(split) for task in tasks for split in task.splits]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def prepare(config: BenchmarkConfig, loaded: Mapping[str, TaskData], split: str, encoder: Encoder) -> Benchmark:
    """Encode what a run needs: the training splits, the prompts of the split that is scored, and what is general.

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
                epochs=config.epochs or settings.epochs,
                metric=settings.metric,
                answer_tokens=settings.answer_tokens,
                train=training(name),
                prompts=[encoder.prompt(row["prompt"]) for row in scored.values()],
                questions=[row["prompt"] for row in scored.values()],
                references=[row["answer"] for row in scored.values()],
                indices=list(scored),
            )
        )
    instructions = training(config.instructions) if config.instructions and config.instructions in loaded else []
    texts = [] if config.general is None else generate_rows("benchmark.general", config.general)
    general = [encoder.example(row["prompt"], row["answer"]) for row in texts]
    exercises = {} if config.abilities is None else generate_abilities("benchmark.abilities", config.abilities)
    abilities = {ability: [_endless(encoder, row) for row in rows] for ability, rows in exercises.items()}
    return Benchmark(tasks, instructions, checksums(loaded), general, abilities)


def _endless(encoder: Encoder, row: Mapping[str, str]) -> Example:
    """An example without the end token: what would follow its answer is not asked for."""
    example = encoder.example(row["prompt"], row["answer"])
    return Example(example.prompt, example.answer[:-1])
