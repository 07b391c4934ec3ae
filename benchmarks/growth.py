"""How the time of a round grows: python benchmarks/growth.py [--out FILE]

With past tasks, with the training set, with the model's size and with the ranks. The tasks are all alike, so that a
round differs from the one before in their number alone. What is measured is processor time of the run's own process (of
several ranks the first's), which other work on the machine disturbs least: `learning` is all of a round's steps, and
`scoring` what follows until the next round's, the checkpoint and the report included.

The exponent is the slope of log seconds over log cause by least squares: 0 for what does not grow, 1 for what grows as
its cause does. A round scores every task seen so far, so that a whole run's scoring is quadratic: the matrix itself.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path
from random import Random
from statistics import linear_regression
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import pandas as pd
import torch
from models import save_random_model
from omegaconf import DictConfig

from trace_cl.analysis.text import markdown
from trace_cl.choices import compose
from trace_cl.errors import UserError
from trace_cl.launch.processes import launch

TASKS = ["C-STANCE", "FOMC", "MeetingBank", "Py150", "ScienceQA", "NumGLUE-cm", "NumGLUE-ds", "20Minuten"]
"""Those of the embedded benchmark by name alone."""

TRAIN, MOST = 40, 4
"""Training examples of a task, and how many times as many there are of the first."""

WIDTHS = {"1M": (128, 4), "3M": (224, 4), "10M": (384, 5), "30M": (640, 6)}
"""The hidden size and the layers of models of about so many parameters."""


def alike() -> dict[str, dict[str, list[dict[str, str]]]]:
    """Eight tasks of other words, of which nothing can be learned but that there are as many of them everywhere."""
    return {name: {split: rows(name, split) for split in ("train", "eval", "test")} for name in TASKS}


def rows(task: str, split: str) -> list[dict[str, str]]:
    """Questions of forty words, answers of eight; ten to be scored."""
    draw = Random(f"{task}/{split}")

    def text(words: int) -> str:
        return " ".join("".join(draw.choices("abcde", k=4)) for _ in range(words))

    return [{"prompt": f"{text(40)}\n", "answer": text(8)} for _ in range(MOST * TRAIN if split == "train" else 10)]


class Clock:
    """A logger that notes how much processor time the run has had at each of its steps and rounds, and at its end."""

    def begin(self, folder: Path, config: Mapping[str, Any], steps: int) -> None:
        self.file = folder / "clock.jsonl"

    def log(self, axis: str, at: int, values: Mapping[str, float]) -> None:
        with self.file.open("a") as lines:
            lines.write(json.dumps([axis, process_time()]) + "\n")

    def close(self) -> None:
        self.log("end", 0, {})


@dataclass(frozen=True)
class Round:
    """Seconds that a round took."""

    learning: float
    scoring: float


def read_clock(lines: Sequence[tuple[str, float]]) -> list[Round]:
    """The rounds that a `Clock` has noted, of two steps or more each.

    Of a round's first step only the end is known: it is taken to be as long as the others.
    """
    rounds: list[list[float]] = [[]]
    for axis, seconds in lines:
        if axis == "step":
            rounds[-1].append(seconds)
        else:
            rounds.append([])
    rounds = [steps for steps in rounds if steps]
    each = [(steps[-1] - steps[0]) / (len(steps) - 1) for steps in rounds]
    begins = [steps[0] - step for steps, step in zip(rounds, each, strict=True)]
    return [
        Round(learning=step * len(steps), scoring=after - steps[-1])
        for steps, step, after in zip(rounds, each, [*begins[1:], lines[-1][1]], strict=True)
    ]


@dataclass(frozen=True)
class Growth:
    """The seconds of rounds by the size of what they grow with."""

    cause: str
    of: str
    sizes: list[float]
    rounds: list[Round]

    def exponent(self, part: str) -> float:
        """Of `learning` or `scoring`."""
        return exponent(self.sizes, [getattr(round, part) for round in self.rounds])


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """b of seconds = a · sizes^b, by least squares on the logarithms."""
    return linear_regression([log(size) for size in sizes], [log(each) for each in seconds]).slope


def configure(runs: Path, *overrides: str) -> DictConfig:
    """A run on the tasks that are alike."""
    config = compose(
        [
            "benchmark.generator=growth.alike",
            f"benchmark.max_train={TRAIN}",
            f"benchmark.order=[{TASKS[0]}]",
            "benchmark.general=null",
            "benchmark.abilities=null",
            "evaluation.zero_shot=false",
            "checkpoint.every_minutes=null",
            "logger._target_=growth.Clock",
            f"runs_dir={runs}",
            *overrides,
        ]
    )
    for task in config.benchmark.tasks.values():
        task.epochs, task.metric, task.answer_tokens = 1, "rouge_l", 16
    return config


def run(runs: Path, *overrides: str) -> list[Round]:
    """The rounds of a run of its own."""
    with TemporaryDirectory(dir=runs) as folder, redirect_stdout(sys.stderr):
        launch(configure(Path(folder), *overrides))
        [clock] = Path(folder).glob("*/*/*/seed*/clock.jsonl")
        return read_clock([tuple(json.loads(line)) for line in clock.read_text().splitlines()])


def with_past_tasks(runs: Path) -> list[Growth]:
    """Rounds 1 to 8 of a run each."""
    order = f"benchmark.order=[{','.join(TASKS)}]"
    methods = {"SeqFT": "seqft", "Replay": "replay", "GEM": "gem"}
    found = []
    for method, name in methods.items():
        more = ["strategy.instructions=false"] if name == "replay" else []
        rounds = run(runs, f"strategy={name}", order, *more)
        found.append(Growth("tasks seen", method, [1.0 + past for past in range(len(rounds))], rounds))
    return found


def with_the_training_set(runs: Path) -> Growth:
    """The first round, on once, twice and four times as many examples."""
    sizes = [TRAIN, 2 * TRAIN, MOST * TRAIN]
    rounds = [run(runs, f"benchmark.max_train={size}")[0] for size in sizes]
    return Growth("training examples", "SeqFT", [float(size) for size in sizes], rounds)


def with_the_model(runs: Path, models: Mapping[str, Path]) -> Growth:
    """The first round of each of these models, whose size is counted in parameters (of four bytes)."""
    sizes = [sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 4 for folder in models.values()]
    rounds = [run(runs, f"model.path={folder}", "model.name=random")[0] for folder in models.values()]
    return Growth("parameters", "SeqFT", sizes, rounds)


def with_the_ranks(runs: Path, model: Path) -> Growth:
    """The first round under DeepSpeed, in one process and in two. Raises UserError where it is not there."""
    settings = [f"model.path={model}", "model.name=random", "engine=deepspeed", "device=cpu"]
    rounds = [run(runs, *settings, f"engine.processes={size}")[0] for size in (1, 2)]
    return Growth("ranks", "SeqFT, 10 M parameters", [1.0, 2.0], rounds)


def random_models(folder: Path) -> dict[str, Path]:
    """The models of `WIDTHS`, on the disk."""
    for name, (width, layers) in WIDTHS.items():
        architecture = {
            "model_type": "llama",
            "vocab_size": 2560,
            "hidden_size": width,
            "intermediate_size": 8 * width // 3,
            "num_hidden_layers": layers,
            "num_attention_heads": width // 32,
            "tie_word_embeddings": True,
        }
        save_random_model(folder / name, architecture, torch.float32)
    return {name: folder / name for name in WIDTHS}


def table(found: Sequence[Growth]) -> str:
    """A line each, with the seconds of the smallest and the largest and the exponents."""
    lines = [
        {
            "grows with": each.cause,
            "of": each.of,
            "from": f"{each.sizes[0]:,.0f}",
            "to": f"{each.sizes[-1]:,.0f}",
            **{
                column: value
                for part in ("learning", "scoring")
                for column, value in (
                    (f"{part} s", f"{getattr(each.rounds[0], part):.2f} → {getattr(each.rounds[-1], part):.2f}"),
                    (f"exponent of {part}", f"{each.exponent(part):.2f}"),
                )
            },
        }
        for each in found
    ]
    return markdown(pd.DataFrame(lines).set_index("grows with"))


def main() -> None:
    """Print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    began = perf_counter()
    with TemporaryDirectory() as folder:
        runs = Path(folder)
        models = random_models(runs)
        run(runs)  # what is made once, at first
        found = [*with_past_tasks(runs), with_the_training_set(runs), with_the_model(runs, models)]
        try:
            found.append(with_the_ranks(runs, models["10M"]))
            missing = ""
        except UserError as error:
            missing = f"\nNot measured with ranks: {error}"
    print(table(found) + missing)
    print(f"\n{perf_counter() - began:.0f} seconds in all")
    if given.out:
        parts = ("learning", "scoring")
        whole = [{**asdict(each), "exponents": {part: each.exponent(part) for part in parts}} for each in found]
        given.out.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
