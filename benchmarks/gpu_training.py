"""How fast each method learns, in which memory: the runner's own steps on real examples of all tasks, mixed."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, islice
from time import perf_counter, time
from typing import Any

import flops
import torch
from gpu_bench import Bench, Part, drop_what_is_left
from models import random_model
from omegaconf import DictConfig
from scoring import seconds
from transformers import PreTrainedModel

from trace_cl.build import build_strategy
from trace_cl.config import EngineConfig, as_dict
from trace_cl.data.batches import global_batches
from trace_cl.needs import Needs, parts_of, size
from trace_cl.plan import select_first
from trace_cl.run import optimization
from trace_cl.strategies.base import Example, Round
from trace_cl.training import layout as layouts
from trace_cl.training.folder import build_on_meta, of_sizes
from trace_cl.training.free_memory import measure
from trace_cl.training.memory import Memory
from trace_cl.training.ranks import Ranks
from trace_cl.training.room import DoesNotFit
from trace_cl.training.torch_engine import TorchEngine

FULL = "full fine-tuning"
STEP = "seconds a step"
SETTINGS = [(False, 16384), (False, 8192), (False, 4096), (False, 2048), (True, 16384), (True, 8192), (True, 2048)]
"""Whether layers are computed twice, and tokens of a micro-batch: the fastest first, as far as it fits."""


@dataclass(frozen=True)
class Planned:
    """A method as it is going to be measured."""

    config: DictConfig
    architecture: dict[str, Any]
    twice: bool
    """Whether layers are computed twice."""
    tokens_per_batch: int
    memory: Memory

    def __str__(self) -> str:
        layers = self.architecture["num_hidden_layers"]
        twice = ", layers computed twice" if self.twice else ""
        return f"{layers} layers, micro-batches of {self.tokens_per_batch} tokens{twice}"


def gem(bench: Bench) -> None:
    """GEM, which holds its memories' gradients only where there is room for them."""
    ways = (["strategy=gem", f"strategy.memory_gradients={how}"] for how in ("stored", "streamed"))
    learning(bench, "GEM in the last round", *ways)


def machine(bench: Bench) -> None:
    """What there is to measure on."""
    device, dtype = bench.place
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    try:
        deepspeed = f"deepspeed {version('deepspeed')}, not measured here (benchmarks/engines.py does)"
    except PackageNotFoundError:
        deepspeed = "deepspeed is not installed: nothing of ZeRO can run here"
    bench.tell(name, "free GB", (measure(device, Ranks()).device or 0) / 1e9 or None, f"torch {torch.__version__}")
    bench.tell(name, "engine", None, f"engine=torch; {deepspeed}")
    rate = flops.of_a_product(device, dtype, bench.scale.product)
    sheet = flops.by_data_sheet(name)
    known = f"{sheet / 1e12:.0f} by the data sheet" if sheet else "no data sheet known"
    bench.tell("matrix product", "TFLOP/s", rate / 1e12, f"{bench.scale.product}³ in {dtype}; {known}")


def learning(bench: Bench, subject: str, *ways: Sequence[str]) -> None:
    """Time and memory of a method's steps in its last round, in the first of these ways (overrides) that has room.

    Where the plan has no room for the whole depth, a model of half as many layers stands in for it, and again.
    """
    depth = bench.compose().model.architecture.num_hidden_layers
    for layers in dict.fromkeys(max(1, depth // part) for part in (1, 2, 4)):
        for overrides in ways:
            if learned(bench, subject, "" if layers == depth else f", {layers} layers", layers, overrides):
                return


def learned(bench: Bench, subject: str, shallow: str, layers: int, overrides: Sequence[str]) -> bool:
    """Whether there was room for so many layers, under the first settings that are not too large after all."""
    config = bench.compose(*overrides)
    architecture = {**as_dict(config.model.architecture), "num_hidden_layers": layers}
    for planned in fitting(bench, subject + shallow, config, architecture):
        if shallow and subject != FULL and bench.rows.find(FULL + shallow, STEP) is None:
            learned(bench, FULL, shallow, layers, [])  # what it is held against
        try:
            learn(bench, subject, shallow, planned)
            return True
        except (DoesNotFit, torch.OutOfMemoryError):
            bench.tell(subject + shallow, "out of memory", None, f"{planned}; planned {parts_of(planned.memory)}")
        drop_what_is_left()
    return False


def fitting(bench: Bench, subject: str, config: DictConfig, architecture: dict[str, Any]) -> Iterator[Planned]:
    """Those of `SETTINGS` that the plan has room for, or a row that tells of the last that it has none for."""
    device, dtype = bench.place
    strategy, room = build_strategy(config), measure(device, Ranks())
    sizes = strategy.build(lambda _: build_on_meta(of_sizes(architecture), dtype), None, bench.benchmark.rounds(1, 1))
    needs = Needs(config, strategy, bench.benchmark, sizes, dtype)
    found = False
    for twice, tokens in SETTINGS:
        settings = replace(EngineConfig(**config.engine), name="torch", gradient_checkpointing=twice)
        _, memory = needs.under({"training.tokens_per_batch": tokens}).hardest(layouts.layout(settings, 1), room)
        if room.holds(memory):
            found = True
            yield Planned(config, architecture, twice, tokens, memory)
    if not found:
        layers = architecture["num_hidden_layers"]
        beside = f"{layers} layers need {size(memory.total)} ({parts_of(memory)})"
        bench.tell(subject, "does not fit", None, beside)


def last_round(bench: Bench) -> Round:
    """The one in which there are most past tasks."""
    return bench.benchmark.rounds(1, bench.scale.global_batch)[-1]


def batches(bench: Bench) -> list[list[Example]]:
    """What the steps learn from: as much of every task."""
    tasks = bench.benchmark.tasks
    each = min(len(task.train) for task in tasks)
    mixture = list(chain(*(task.train[:each] for task in tasks)))
    epochs = (global_batches(mixture, bench.scale.global_batch, f"gpu/{epoch}") for epoch in range(bench.scale.steps))
    whole = (batch for batch in chain(*epochs) if len(batch) == min(bench.scale.global_batch, len(mixture)))
    return list(islice(whole, bench.scale.steps))


def learn(bench: Bench, subject: str, shallow: str, planned: Planned) -> None:
    """Take the steps, and tell of them. Raises DoesNotFit or torch.OutOfMemoryError where the plan was wrong."""
    device, dtype = bench.place
    strategy, round = build_strategy(planned.config), last_round(bench)
    rounds = bench.benchmark.rounds(1, bench.scale.global_batch)
    model = strategy.build(lambda _: random_model(planned.architecture, dtype, device), None, rounds)
    settings = optimization(planned.config.training)
    engine = TorchEngine(settings, device, planned.tokens_per_batch, planned.twice)
    engine.to_devices(model)
    select_first(strategy, round, model)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    learner = engine.train(model, strategy.loss)
    for each in rounds:
        strategy.begin_round(each, learner)
        if each is not rounds[-1]:
            strategy.end_round(each, learner)  # which keeps what the last round is to remember
    steps: list[tuple[float, list[Example]]] = []
    for batch in batches(bench):
        began = perf_counter()
        learner.backward(batch)
        strategy.adjust_gradients(round, learner)
        learner.step()
        strategy.after_step(round, learner)
        steps.append((seconds(model, began), batch))
        if len(steps) > 1 and time() + steps[-1][0] > bench.deadline:
            break
    recalled = [
        example
        for task in round.past
        if "gradients" in strategy.uses
        for example in task.train[: planned.config.strategy.memory_batch]
    ]
    halved = "; out of memory once, micro-batches halved" if engine.budget.halved else ""
    beside = f"median of {len(steps[1:])} steps of {len(steps[0][1])} examples; {planned}{halved}"
    bench.tell(subject + shallow, STEP, statistics.median(taken for taken, _ in steps[1:]), beside)
    tell_speed(bench, subject, shallow, model, steps[1:], recalled)
    tell_peak(bench, subject + shallow, planned.memory)


def tell_speed(
    bench: Bench,
    subject: str,
    shallow: str,
    model: PreTrainedModel,
    steps: Sequence[tuple[float, Sequence[Example]]],
    recalled: Sequence[Example],
) -> None:
    """The rows of what steps of so many seconds on these examples come to; `recalled` are those of past tasks that each
    step looks at besides."""
    whole, own = bench.rows.find(FULL + shallow, STEP), bench.rows.find(subject + shallow, STEP)
    if whole and own and subject != FULL:
        bench.tell(subject + shallow, "of full fine-tuning's time", own / whole)
    tokens = statistics.median(sum(map(len, batch)) / taken for taken, batch in steps)
    bench.tell(subject + shallow, "tokens/s", tokens, "of the batch, prompts and answers")
    rate = statistics.median(flops.needed(model, [*batch, *recalled]) / taken for taken, batch in steps)
    device, product = bench.place[0], bench.rows.find("matrix product", "TFLOP/s")
    sheet = flops.by_data_sheet(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    beside = f"of the matrix product; {rate / 1e12:.3g} TFLOP/s"
    beside += f", {rate / sheet:.1%} of the data sheet's" if sheet else ""
    bench.tell(subject + shallow, "utilisation %", rate / 1e10 / product if product else None, beside)


def tell_peak(bench: Bench, subject: str, memory: Memory) -> None:
    """The row of the device's memory; CUDA's own context is in the plan alone, and left out of it."""
    planned = memory.training - memory.context
    if bench.place[0].type != "cuda":
        bench.tell(subject, "peak GB", None, f"not measured on a CPU; planned {planned / 1e9:.3g}")
        return
    peak = torch.cuda.max_memory_allocated()
    bench.tell(subject, "peak GB", peak / 1e9, f"planned {planned / 1e9:.1f}, {planned / peak:.2f} times the measured")


PARTS: dict[str, Part] = {
    "machine": machine,
    "full": lambda bench: learning(bench, FULL, []),
    "hft": lambda bench: learning(bench, "HFT", ["hft=true"]),
    "lora": lambda bench: learning(bench, "LoRA", ["strategy=lora_seqft"]),
    "gem": gem,
}
