"""The dry run: the plan of a whole run, and how it is printed for a program or for people."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from trace_cl.config import EngineConfig, as_dict
from trace_cl.data.batches import Encoder
from trace_cl.data.benchmark import count_only, load_data, prepare
from trace_cl.identity import run_folder
from trace_cl.needs import TRAINING, Needs, decide, size
from trace_cl.plan import plan_round, select_first
from trace_cl.strategies.base import Strategy
from trace_cl.tiny import CHECKPOINT
from trace_cl.training import flops
from trace_cl.training import layout as layouts
from trace_cl.training.folder import build_on_meta, of_sizes, read_config
from trace_cl.training.free_memory import measure
from trace_cl.training.layout import device_and_dtype
from trace_cl.training.model import (
    check_positions,
    count,
    load_tokenizer,
    locate,
    whole_bytes,
)
from trace_cl.training.ranks import Ranks


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
    encoder = Encoder(tokenizer, config.training.total_tokens, config.evaluation.prompt_tokens)
    benchmark = counted or prepare(config.benchmark, loaded, config.evaluation.split, encoder)
    device, dtype = device_and_dtype(config.device, config.model.dtype)
    rounds = benchmark.rounds(config.seed, config.training.global_batch)
    base_bytes = whole_bytes(build_on_meta(architecture, dtype))
    model = strategy.build(lambda _: build_on_meta(architecture, dtype), None, rounds)
    check_positions(model, benchmark.tasks, [strategy.positions(round) for round in rounds])
    layout = layouts.layout(config.engine, layouts.processes(config.engine, config.device))
    room = None
    # Where `auto` comes to no GPU, one elsewhere may be meant.
    if torch.cuda.is_available() if device.type == "cuda" else config.device != "auto":
        here = measure(device, Ranks())
        room = replace(here, main=here.main // layout.ranks)
    needs = Needs(config, strategy, benchmark, model, dtype)
    needs, decided = decide(needs, layout.ranks, None if counted else room, {})
    layout = layouts.layout(EngineConfig(**needs.config.engine), layout.ranks)
    planned = []
    forward, known = flops.count(model, learning=False), dict[Any, flops.Flops]()
    for round in rounds:
        select_first(strategy, round, model)
        planned.append(plan_round(needs.strategy, round, model, base_bytes, config.training.global_batch))
        scored = benchmark.tasks if config.evaluation.tasks == "all" else benchmark.tasks[: round.number]
        scored = [task for task in scored if not (task in round.past and strategy.unchanged(round, task))]
        planned[-1]["flops"] = {
            "training": flops.training(model, strategy.phases(round), known),
            "scoring": flops.answering(scored, forward),
        }
    hardest, memory = needs.hardest(layout, room, activations=not counted)
    result: dict[str, Any] = {
        "benchmark": config.benchmark.name,
        "model": config.model.name,
        "method": strategy.name,
        "seed": config.seed,
        "folder": str(run_folder(config, strategy.name)),
        "decided": decided,
        "parameters": count(set(model.parameters())),
        "optimizer_steps": sum(r["optimizer_steps"] for r in planned),
        "tokens": {"training": sum(r["tokens"] for r in planned), "tokenizer": tokenizer_name},
        "flops": {
            "training": sum(r["flops"]["training"] for r in planned),
            "scoring": sum(r["flops"]["scoring"] for r in planned),
            "zero_shot": flops.answering(benchmark.tasks if config.evaluation.zero_shot else (), forward),
        },
        "memory_per_device": {
            "dtype": str(dtype).removeprefix("torch."),
            "zero_stage": layout.stage,
            "processes": layout.ranks,
            "round": hardest.number,
            **vars(memory),
            **({"memory_gradients": chosen} if (chosen := needs.config.strategy.get("memory_gradients")) else {}),
            "total": memory.total,
            "fits": room and room.holds(memory),
        },
        "rounds": planned,
        "unknown": [],
    }
    if counted:
        for part, key in [(result["tokens"], "training"), *((r, "tokens") for r in planned)]:
            part[key] = None
        for part in (result, *planned):
            part["flops"] = None
        result["memory_per_device"] |= {"activations": None, "total": None, "fits": None}
        result["unknown"] = [
            "tokens.training",
            "rounds.tokens",
            "flops",
            "rounds.flops",
            "memory_per_device.activations",
            "memory_per_device.total",
            "memory_per_device.fits",
        ]
        if any(needs.strategy.streamed(round) for round in rounds):  # what it takes goes by the tokens
            result["memory_per_device"] |= {"strategy": None, "host": None}
            result["unknown"] += ["memory_per_device.strategy", "memory_per_device.host", "rounds.extra_bytes"]
            for part in planned:
                part["extra_bytes"] = None
    return result


def chosen(decided: Mapping[str, Any], where: str = "") -> list[str]:
    """A line for each setting that was left at `auto`, and what it came to."""
    return [
        f"{key}={value if isinstance(value, str) else json.dumps(value)} (auto{where})"
        for key, value in decided.items()
    ]


def render(plan: dict[str, Any], as_json: bool) -> str:
    """A plan for a program, or for people."""
    if as_json:
        return json.dumps(plan, ensure_ascii=False, indent=1)
    memory = plan["memory_per_device"]
    decided = chosen(plan["decided"], "" if memory["fits"] is not None else ", for a device that is not known here")
    parts = ", ".join(f"{part} {size(memory[part])}" for part in (*TRAINING, "total") if memory[part])
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
                "FLOPs": "?" if r["flops"] is None else f"{r['flops']['training']:.2e}",
                **{part: clock(hours) for part, hours in r.get("hours", {}).items()},
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
        *decided,
        f"memory of each of {memory['processes']} devices in round {memory['round']}, the hardest ({memory['dtype']}):",
        f"  {parts}",
        f"  while it answers: weights and work {size(memory['answering'])}, cache {size(memory['scoring_cache'])}",
    ]
    if memory["fits"] is not None:
        lines.append("  there is room for it here" if memory["fits"] else "  there is no room for it here")
    if plan["flops"] is not None:
        lines.append(
            "FLOPs: training {training:.2e}, scoring {scoring:.2e} and before the first round {zero_shot:.2e} "
            "at most".format(**plan["flops"])
        )
    if "hours" in plan:
        parts = ", ".join(f"{part.replace('_', '-')} {clock(hours)}" for part, hours in plan["hours"].items())
        disk = plan["disk"]
        lines.append(f"hours, measured in small: {parts}")
        lines.append(f"on the disk: a checkpoint {size(disk['checkpoint'])}, all {size(disk['most'])} at most")
    if plan["unknown"]:
        lines.append("not known without the data (benchmark.root): tokens, FLOPs, and the memory that activations take")
    return "\n".join(lines)


def clock(hours: float) -> str:
    """Hours as a clock counts them."""
    minutes, seconds = divmod(round(hours * 3600), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
