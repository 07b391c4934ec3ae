"""What a run will do, counted before it does it: the dry run, and what the progress bar measures itself against."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from transformers import AutoConfig, PreTrainedModel

from strategies.base import Phase, Round, Strategy
from trace_cl.batches import Encoder
from trace_cl.benchmark import load_data, prepare
from trace_cl.config import as_dict, run_folder
from trace_cl.model import (
    build_on_meta,
    count,
    device_and_dtype,
    frozen_modules,
    load_tokenizer,
    locate,
    trainable_share,
)
from trace_cl.tiny import CHECKPOINT


def optimizer_steps(phase: Phase, global_batch: int) -> int:
    """Steps of a phase: an epoch's last batch may be smaller."""
    return phase.epochs * math.ceil(len(phase.examples) / global_batch)


def tokens(phases: Sequence[Phase]) -> int:
    """Tokens, prompts and answers, that a round trains on."""
    return sum(phase.epochs * sum(map(len, phase.examples)) for phase in phases)


def plan_round(strategy: Strategy, round: Round, model: PreTrainedModel, global_batch: int) -> dict[str, Any]:
    """What a round trains, on what, for how many steps; `begin_round` has told the model which parameters learn."""
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


@dataclass(frozen=True)
class Memory:
    """Bytes a single device holds in a round's training, activations not counted."""

    weights: int
    gradients: int
    optimizer: int
    strategy: int

    @classmethod
    def of(cls, parameters: int, trainable: int, strategy: int, dtype: torch.dtype) -> "Memory":
        """Frozen parameters in the model's dtype; what learns, its gradient and AdamW's two moments in fp32.

        `strategy` is what the strategy keeps besides: GEM its memories' gradients.
        """
        return cls(
            weights=(parameters - trainable) * dtype.itemsize + trainable * 4,
            gradients=trainable * 4,
            optimizer=trainable * 8,
            strategy=strategy,
        )

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.strategy


def dry_run(config: DictConfig, strategy: Strategy) -> dict[str, Any]:
    """The plan of a run: needs the data and the model's sizes, but neither weights nor network."""
    loaded = load_data(config.benchmark)
    if config.model.architecture and config.model.path is None:
        # The network is never asked: sizes stand in the model's YAML, tokens are counted with the tokenizer at hand.
        architecture, tokenizer_name = AutoConfig.for_model(**as_dict(config.model.architecture)), "tiny"
        tokenizer = load_tokenizer(str(CHECKPOINT))
    else:
        folder = locate(config.model.source, config.model.path)
        architecture, tokenizer_name = AutoConfig.from_pretrained(folder, trust_remote_code=False), config.model.name
        tokenizer = load_tokenizer(folder)
    encoder = Encoder(tokenizer, config.training.prompt_tokens, config.training.answer_tokens)
    benchmark = prepare(config.benchmark, loaded, config.evaluation.split, encoder)
    _, dtype = device_and_dtype(config.device, config.model.dtype)
    model = strategy.prepare(lambda _: build_on_meta(architecture), None)
    parameters = count(set(model.parameters()))
    rounds, needs = [], []
    for round in benchmark.rounds(config.seed):
        strategy.begin_round(round, model)
        rounds.append(plan_round(strategy, round, model, config.training.global_batch))
        trainable = rounds[-1]["trainable_parameters"]
        needs.append(Memory.of(parameters, trainable, strategy.extra_bytes(round, trainable), dtype))
    largest = max(needs, key=lambda need: need.total)
    return {
        "benchmark": config.benchmark.name,
        "model": config.model.name,
        "method": strategy.name,
        "seed": config.seed,
        "folder": str(run_folder(config, strategy)),
        "parameters": parameters,
        "optimizer_steps": sum(r["optimizer_steps"] for r in rounds),
        "tokens": {"training": sum(r["tokens"] for r in rounds), "tokenizer": tokenizer_name},
        "memory_per_device": {"dtype": str(dtype).removeprefix("torch."), **vars(largest), "total": largest.total},
        "rounds": rounds,
    }
