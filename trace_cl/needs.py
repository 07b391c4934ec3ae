"""What a run needs of memory, and under which settings there is room for it: those left at `auto`, and what helps."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedModel

from trace_cl.build import build_strategy
from trace_cl.config import EngineConfig
from trace_cl.data.benchmark import Benchmark
from trace_cl.errors import UserError
from trace_cl.plan import select_first
from trace_cl.strategies.base import Bytes, Round, Strategy, bytes_of
from trace_cl.training import automatic, engines
from trace_cl.training import layout as layouts
from trace_cl.training.automatic import Choice
from trace_cl.training.free_memory import FreeMemory, measure
from trace_cl.training.layout import ROOM, Layout
from trace_cl.training.memory import (
    CONTEXT,
    Memory,
    activations,
    answered,
    answering,
    largest_answered,
    largest_micro_batch,
    scoring_cache,
    streaming,
)
from trace_cl.training.model import (
    cut_matters,
)
from trace_cl.training.ranks import Ranks


@dataclass(frozen=True)
class Needs:
    """What a run needs of memory, to be asked under one setting or another; `model` is on the meta device."""

    config: DictConfig
    strategy: Strategy
    benchmark: Benchmark
    model: PreTrainedModel
    dtype: torch.dtype
    counted: dict[Any, int] = field(default_factory=dict)
    answers: dict[tuple[int, int, int], tuple[int, int]] = field(default_factory=dict)

    def hardest(
        self, layout: Layout, room: FreeMemory | None, activations: bool = True, reading: bool = True
    ) -> tuple[Round, Memory]:
        """The round that needs most, and what each rank needs in it, where it has so much to itself (None: unknown).

        What is at work while a step's activations are made, or while prompts are read, takes its time to count.
        """
        rounds = self.benchmark.rounds(self.config.seed, self.config.training.global_batch)
        on_gpu = room is not None and room.device is not None
        found = []
        for round in rounds:
            select_first(self.strategy, round, self.model)
            extra = partial(self.extra_bytes, round, layout)
            memory = Memory.of(self.model.parameters(), self.dtype, layout, extra)
            found.append(
                (round, replace(self.answered(memory, layout, room, reading), context=CONTEXT if on_gpu else 0))
            )
        round, memory = max(found, key=lambda pair: pair[1].training)
        return round, replace(memory, activations=self.activations(rounds, round, layout) if activations else 0)

    def extra_bytes(self, round: Round, layout: Layout, learning: int) -> Bytes:
        """What the strategy keeps where so many numbers learn on the device, and what is held of gradients that it does
        not keep."""
        kept = self.strategy.extra_bytes(round, learning)
        streamed = streaming(self.model, self.dtype, layout, self.strategy.streamed(round))
        return Bytes(kept.device + streamed.device, kept.host + streamed.host)

    def answered(self, memory: Memory, layout: Layout, room: FreeMemory | None, reading: bool) -> Memory:
        """With what it takes to score the round, every rank its share of the examples."""
        gather, budget = self.config.engine.gather, self.config.evaluation.tokens_per_batch
        whole = sum(bytes_of(p, self.dtype) for p in set(self.model.parameters()))
        if gather is None and room is not None and room.device is not None:
            gather = whole <= ROOM * room.device
        weights = memory.weights if layout.stage == 3 and gather is False else whole
        batch = largest_answered(self.benchmark.tasks, budget)
        if not answered(batch):  # without the data: as long as they can be
            prompt, answer = self.config.evaluation.prompt_tokens, max(t.answer_tokens for t in self.benchmark.tasks)
            batch = (max(1, budget // (prompt + answer)), prompt, answer)
        if reading and batch not in self.answers:
            self.answers[batch] = answering(self.model, self.dtype, batch)
        work, cache = self.answers.get(batch) or (0, scoring_cache(self.model, self.dtype, batch))
        return replace(memory, answering=weights + work, scoring_cache=cache)

    def activations(self, rounds: Sequence[Round], round: Round, layout: Layout) -> int:
        """Of the largest micro-batch that is learned from in any phase of any round, or recalled from a memory of past
        tasks, with the parameters that learn in this round."""
        pools = [phase.examples for each in rounds for phase in self.strategy.phases(each)]
        if "gradients" in self.strategy.uses:
            pools += [task.train for task in self.benchmark.tasks[:-1]]
        training = self.config.training
        shape = largest_micro_batch(pools, training.tokens_per_batch, training.global_batch)
        key = (shape, round.number, layout.held_in_fp32(self.dtype), layout.gradient_checkpointing)
        if key not in self.counted and shape[0]:
            select_first(self.strategy, round, self.model)
            self.counted[key] = activations(self.model, self.dtype, layout, shape)
        return self.counted.get(key, 0)

    def under(self, changes: dict[str, Any]) -> "Needs":
        """The same run under other settings, by their keys; none of them changes which parameters learn."""
        config = OmegaConf.merge(self.config)
        assert isinstance(config, DictConfig)
        for key, value in changes.items():
            OmegaConf.update(config, key, value)
        anew = any(key.startswith("strategy.") for key in changes)
        return replace(self, config=config, strategy=build_strategy(config) if anew else self.strategy)


MEMORY_DTYPE, MEMORY_GRADIENTS = "strategy.memory_dtype", "strategy.memory_gradients"


def streamed(needs: Needs) -> Needs | None:
    """The same run, with no memory's gradient held; None where that cannot be: for its settings, or because layers that
    are computed twice would draw their dropout twice."""
    if needs.config.strategy.get("memory_gradients") is None or cut_matters(needs.model):
        return None
    with suppress(UserError):
        return needs.under({MEMORY_GRADIENTS: "streamed"})
    return None


def decide(needs: Needs, ranks: int, room: FreeMemory | None, before: Mapping[str, Any]) -> tuple[Needs, Choice]:
    """The same run with every `auto` decided, and what was decided: as an earlier start of the run did (`before`), else
    for the fastest that has room. The gradients of memories are stored, which saves a backward pass, where that has
    room or the room is not known, and else streamed. Raises UserError for a model with which what is set cannot be."""
    setting, other = needs.config.strategy.get("memory_gradients"), streamed(needs)
    if setting == "streamed" and other is None:
        raise UserError(
            f"{MEMORY_GRADIENTS}=streamed computes each layer twice, and {needs.config.model.name} has dropout, which "
            f"would be another each time: set {MEMORY_GRADIENTS}=stored"
        )
    if setting != automatic.AUTO:
        return fastest(needs, ranks, room, before)
    stored, decided = fastest(needs.under({MEMORY_GRADIENTS: "stored"}), ranks, room, before)
    if room is None or other is None or _holds(stored, ranks, room):
        return stored, decided | {MEMORY_GRADIENTS: "stored"}
    found, decided = fastest(other, ranks, room, before)
    return found, decided | {MEMORY_GRADIENTS: "streamed"}


def _holds(needs: Needs, ranks: int, room: FreeMemory) -> bool:
    layout = layouts.layout(EngineConfig(**needs.config.engine), ranks)
    return room.holds(needs.hardest(layout, room, activations=room.device is not None)[1])


def fastest(needs: Needs, ranks: int, room: FreeMemory | None, before: Mapping[str, Any]) -> tuple[Needs, Choice]:
    """The same with what says how a step is cut, and how many prompts are answered at once: for what needs least where
    nothing has room."""
    asked = [key for key in automatic.UNKNOWN if OmegaConf.select(needs.config, key) == automatic.AUTO]
    if room is None:
        decided = {key: automatic.UNKNOWN[key] for key in asked}
        return needs.under(decided), decided
    on_gpu = room.device is not None
    training = automatic.training(asked, on_gpu, recomputable="past_keys" not in needs.strategy.uses)
    scoring = automatic.scoring(asked, on_gpu)
    decided = {key: value for choices in (training, scoring) for key, value in (choices or [{}])[-1].items()}

    def holds(choice: Choice, trains: bool) -> bool:
        changed = needs.under(decided | choice)
        layout = layouts.layout(EngineConfig(**changed.config.engine), ranks)
        memory = changed.hardest(layout, room, activations=trains)[1]
        idle = ("answering", "scoring_cache") if trains else (*TRAINING[1:], "host")
        return room.holds(replace(memory, **dict.fromkeys(idle, 0)))

    for choices, trains in ((training, True), (scoring, False)):
        decided |= next((choice for choice in automatic.kept(before, choices) if holds(choice, trains)), {})
    return needs.under(decided), decided


def settle(needs: Needs, device: torch.device, ranks: Ranks) -> EngineConfig:
    """The engine's settings, with `auto` decided; all ranks call it in step.

    Raises UserError where the hardest round has no room, and names the settings under which it would.
    """
    room = measure(device, ranks)
    # On a GPU alone: in main memory only what clearly has no room is refused, and the count takes its time.
    exact = room.device is not None

    def hardest(settings: EngineConfig) -> tuple[Round, Memory]:
        return needs.hardest(layouts.layout(settings, ranks.size), room, activations=exact, reading=exact)

    given = EngineConfig(**needs.config.engine)
    uses = needs.strategy.uses
    settings = engines.choose(given, ranks.size, uses, lambda settings: room.holds(hardest(settings)[1]))
    round, memory = hardest(settings)
    if not room.holds(memory):
        need, where, free = memory.total, "on each device", room.device
        if free is None or need <= free:
            need, where, free = memory.host + (0 if exact else need), "of main memory for each process", room.main
        raise UserError(
            f"{needs.strategy.name} on {needs.config.model.name} needs {size(need)} {where} in round {round.number}, "
            f"the hardest ({parts_of(memory)}), where there are {size(free)}: "
            f"{remedy(needs, settings, ranks.size, room)}"
        )
    return settings


def remedy(needs: Needs, settings: EngineConfig, ranks: int, room: FreeMemory) -> str:
    """Under which settings the run would have room, as few as can be: first those that cost little."""

    def has_room(changes: dict[str, Any], devices: int = ranks) -> bool:
        changed = needs.under(changes)
        engine = replace(EngineConfig(**changed.config.engine), name=changes.get("engine.name", settings.name))
        with suppress(UserError):
            engines.check(engine, devices, needs.strategy.uses)
            layout = layouts.layout(engine, devices)
            # What takes its time to count only where there is room without it.
            counts = [False, *([True] if room.device is not None else [])]
            return all(room.holds(changed.hardest(layout, room, exact, exact)[1]) for exact in counts)
        return False

    def without_need(changes: dict[str, Any], devices: int) -> dict[str, Any]:
        """Without those that are not needed."""
        for key in list(changes):
            fewer = {name: value for name, value in changes.items() if name != key}
            if key != "engine.name" and has_room(fewer, devices):
                changes = fewer
        return changes

    training, scoring = needs.config.training.tokens_per_batch, needs.config.evaluation.tokens_per_batch
    memories = needs.config.strategy.get("memory_gradients")
    light: list[dict[str, Any]] = [
        {"evaluation.tokens_per_batch": scoring // 2},
        {"evaluation.tokens_per_batch": scoring // 8},
        {"training.tokens_per_batch": training // 2},
        {"training.tokens_per_batch": training // 4},
    ]
    if memories != "streamed" and streamed(needs):
        light.append({MEMORY_GRADIENTS: "streamed"})
    elif memories != "streamed" and needs.config.strategy.get("memory_dtype") == "fp32":
        light.append({MEMORY_DTYPE: "bf16"})
    light.append({"engine.gradient_checkpointing": True})
    spread: list[dict[str, Any]] = [{"engine.name": "deepspeed", "engine.zero_stage": stage} for stage in (2, 3)]
    offloaded = {**spread[0], "engine.offload_optimizer": True}
    together = [dict(chain(*(change.items() for change in light[: n + 1]))) for n in range(len(light))]
    here = [*light, *together, *(spread if ranks > 1 else []), offloaded, {**together[-1], **offloaded}]
    there = [
        (change, 2**n)
        for n in range(1, 7)
        if 2**n > ranks and room.device is not None
        for change in (*spread, {**together[-1], **spread[1]})
    ]
    for changes, devices in (*((change, ranks) for change in here), *there):
        if has_room(changes, devices):
            words = " ".join(
                f"{key.removesuffix('.name')}={value}" for key, value in sorted(without_need(changes, devices).items())
            )
            return f"set {words}".replace("True", "true") + (f", on {devices} such devices" if devices > ranks else "")
    return "no setting makes room; take a smaller model, or devices with more memory"


TRAINING = ("context", "weights", "gradients", "optimizer", "strategy", "activations")


def parts_of(memory: Memory) -> str:
    """What the most that a device holds consists of."""
    answering = memory.total > memory.training
    names = (*(("context", "answering", "scoring_cache") if answering else TRAINING), "host")
    return ", ".join(f"{name.replace('_', ' ')} {size(part)}" for name in names if (part := getattr(memory, name)))


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
