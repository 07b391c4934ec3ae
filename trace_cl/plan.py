"""What a run will do, counted before it does it: the dry run, and what the progress bar measures itself against."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from trace_cl.config import as_dict, run_folder
from trace_cl.data.batches import Encoder
from trace_cl.data.benchmark import count_only, load_data, prepare
from trace_cl.errors import UserError
from trace_cl.strategies.base import Phase, Round, Strategy
from trace_cl.tiny import CHECKPOINT
from trace_cl.training import layout as layouts
from trace_cl.training.folder import build_on_meta, of_sizes, read_config
from trace_cl.training.layout import Layout
from trace_cl.training.memory import Memory, activations, largest_micro_batch
from trace_cl.training.model import (
    check_positions,
    count,
    device_and_dtype,
    frozen_modules,
    load_tokenizer,
    locate,
    trainable_share,
)


def optimizer_steps(phase: Phase, global_batch: int) -> int:
    """Steps of a phase: an epoch's last batch may be smaller."""
    return phase.epochs * math.ceil(len(phase.examples) / global_batch)


def tokens(phases: Sequence[Phase]) -> int:
    """Tokens, prompts and answers, that a round trains on."""
    return sum(phase.epochs * sum(map(len, phase.examples)) for phase in phases)


def select_first(strategy: Strategy, round: Round, model: PreTrainedModel) -> None:
    """Let learn what learns from the round's beginning on: nothing in a round without phases. Raises as `select`."""
    model.requires_grad_(False)
    if strategy.phases(round):
        select(strategy, round, 0, model)


def select(strategy: Strategy, round: Round, step: int, model: PreTrainedModel) -> bool:
    """Let those of the model's parameters learn that the strategy names for this step, and no others; whether it named
    any.

    Raises UserError where it leaves nothing to learn, or names a parameter that is not there.
    """
    names = strategy.trainable(round, step, model)
    if names is None and step > 0:
        return False
    if not names:
        raise UserError(f"strategy={strategy.name} leaves nothing to learn in round {round.number}")
    chosen = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
        chosen.discard(name)
    if chosen:
        raise UserError(
            f"strategy={strategy.name} names parameters that {type(model).__name__} has not: "
            f"{', '.join(sorted(chosen)[:3])}"
        )
    return True


def plan_round(strategy: Strategy, round: Round, model: PreTrainedModel, global_batch: int) -> dict[str, Any]:
    """What a round trains, on what, for how many steps; `select_first` has let its parameters learn."""
    phases = strategy.phases(round)
    return {
        "round": round.number,
        "task": round.task.name,
        "epochs": round.task.epochs,
        "examples": len(round.task.train),
        "phases": [{"name": p.name, "examples": len(p.examples), "epochs": p.epochs} for p in phases],
        "optimizer_steps": sum(optimizer_steps(phase, global_batch) for phase in phases),
        "tokens": tokens(phases),
        "trainable_share": trainable_share(model),
        "trainable_parameters": count(set(model.parameters()), trainable=True),
        "frozen_modules": frozen_modules(model),
    }


def needs(
    strategy: Strategy,
    rounds: Sequence[Round],
    model: PreTrainedModel,
    dtype: torch.dtype,
    layout: Layout,
) -> list[Memory]:
    """What each round's training needs on a device, activations left out."""
    found = []
    for round in rounds:
        select_first(strategy, round, model)
        found.append(Memory.of(model.parameters(), dtype, layout, partial(strategy.extra_bytes, round)))
    return found


def sizes(model: DictConfig) -> tuple[PretrainedConfig, PreTrainedTokenizerBase, str]:
    """A model's architecture, what its tokens are counted with, and that tokenizer's name; no weights are read."""
    if model.architecture and model.path is None:
        # The network is never asked: sizes stand in the model's YAML, tokens are counted with the tokenizer at hand.
        return of_sizes(as_dict(model.architecture)), load_tokenizer(str(CHECKPOINT)), "tiny"
    folder = locate(model.source, model.path)
    return read_config(Path(folder)), load_tokenizer(folder), model.name


def dry_run(config: DictConfig, strategy: Strategy) -> dict[str, Any]:
    """The plan of a run: needs the model's sizes, but neither weights nor network.

    Without the data it rests on the benchmark's counts, and what it cannot know is None and named in `unknown`.
    """
    counted = count_only(config.benchmark, strategy.uses_instructions)
    loaded = {} if counted else load_data(config.benchmark, strategy.uses_instructions)
    architecture, tokenizer, tokenizer_name = sizes(config.model)
    encoder = Encoder(tokenizer, config.training.prompt_tokens, config.training.answer_tokens)
    benchmark = counted or prepare(config.benchmark, loaded, config.evaluation.split, encoder)
    _, dtype = device_and_dtype(config.device, config.model.dtype)
    rounds = benchmark.rounds(config.seed)
    model = strategy.build(lambda _: build_on_meta(architecture, dtype), None, rounds)
    check_positions(model, benchmark.tasks)
    layout = layouts.layout(config.engine, layouts.processes(config.engine, config.device))
    planned = []
    for round in rounds:
        select_first(strategy, round, model)
        planned.append(plan_round(strategy, round, model, config.training.global_batch))

    needed = needs(strategy, rounds, model, dtype, layout)
    hardest, memory = max(zip(rounds, needed, strict=True), key=lambda pair: pair[1].total)
    select_first(strategy, hardest, model)
    if not counted:
        micro_batch = largest_micro_batch(hardest.task.train, config.training.tokens_per_batch)
        memory = replace(memory, activations=activations(model, dtype, layout, micro_batch))
    result: dict[str, Any] = {
        "benchmark": config.benchmark.name,
        "model": config.model.name,
        "method": strategy.name,
        "seed": config.seed,
        "folder": str(run_folder(config, strategy.name)),
        "parameters": count(set(model.parameters())),
        "optimizer_steps": sum(r["optimizer_steps"] for r in planned),
        "tokens": {"training": sum(r["tokens"] for r in planned), "tokenizer": tokenizer_name},
        "memory_per_device": {
            "dtype": str(dtype).removeprefix("torch."),
            "zero_stage": layout.stage,
            "processes": layout.ranks,
            "round": hardest.number,
            **vars(memory),
            "total": memory.total,
        },
        "rounds": planned,
        "unknown": [],
    }
    if counted:
        for part, key in [(result["tokens"], "training"), *((r, "tokens") for r in planned)]:
            part[key] = None
        result["memory_per_device"] |= {"activations": None, "total": None}
        result["unknown"] = [
            "tokens.training",
            "rounds.tokens",
            "memory_per_device.activations",
            "memory_per_device.total",
        ]
    return result


def render(plan: dict[str, Any], as_json: bool) -> str:
    """A plan for a program, or for people."""
    if as_json:
        return json.dumps(plan, ensure_ascii=False, indent=1)
    memory = plan["memory_per_device"]
    parts = ", ".join(
        f"{part} {size(memory[part])}"
        for part in ("weights", "gradients", "optimizer", "strategy", "activations", "total")
        if memory[part]
    )
    table = pd.DataFrame(
        [
            {
                "round": r["round"],
                "task": r["task"],
                "epochs": r["epochs"],
                "examples": r["examples"],
                "steps": r["optimizer_steps"],
                "tokens": "?" if r["tokens"] is None else f"{r['tokens']:,}",
                "trained": f"{r['trainable_share']:.1%}",
            }
            for r in plan["rounds"]
        ]
    )
    lines = [
        f"{plan['folder']}: {plan['model']} has {plan['parameters']:,} parameters",
        "",
        table.to_string(index=False),
        "",
        f"{plan['optimizer_steps']:,} optimizer steps; trained: the share of the layers' matrices that learns",
        f"memory of each of {memory['processes']} devices in round {memory['round']}, the hardest ({memory['dtype']}):",
        f"  {parts}",
    ]
    if plan["unknown"]:
        lines.append("not known without the data (benchmark.root): tokens, and the memory that activations take")
    return "\n".join(lines)


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
