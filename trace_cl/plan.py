"""What a run will do, counted before it does it: the dry run, and what the progress bar measures itself against."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from strategies.base import Phase, Round, Strategy
from trace_cl.model import count, frozen_modules, trainable_share


def optimizer_steps(phase: Phase, global_batch: int) -> int:
    """Steps of a phase: an epoch's last batch may be smaller."""
    return phase.epochs * math.ceil(len(phase.examples) / global_batch)


def tokens(phases: Sequence[Phase]) -> int:
    """Tokens, prompts and answers, that a round trains on."""
    return sum(phase.epochs * sum(map(len, phase.examples)) for phase in phases)


def plan_rounds(
    strategy: Strategy, rounds: Sequence[Round], model: PreTrainedModel, global_batch: int
) -> list[dict[str, Any]]:
    """What each round trains, on what, for how many steps. `model` may be without weights (on the meta device)."""
    planned = []
    for round in rounds:
        strategy.begin_round(round, model)
        phases = strategy.phases(round)
        planned.append(
            {
                "round": round.number,
                "task": round.task.name,
                "epochs": round.task.epochs,
                "examples": len(round.task.train),
                "phases": [{"name": p.name, "examples": len(p.examples), "epochs": p.epochs} for p in phases],
                "optimizer_steps": sum(optimizer_steps(phase, global_batch) for phase in phases),
                "tokens": tokens(phases),
                "trainable_share": trainable_share(model),
                "trainable_parameters": (trainable := count(set(model.parameters()), trainable=True)),
                "strategy_bytes": strategy.extra_bytes(round, trainable),
                "frozen_modules": frozen_modules(model),
            }
        )
    return planned


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
