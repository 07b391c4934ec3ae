"""What a round will train, said before it does: for its record, and for the progress bar to be measured against."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from trace_cl.errors import UserError
from trace_cl.strategies.base import Phase, Round, Strategy
from trace_cl.strategies.layers import trainable_share
from trace_cl.training.layout import Layout
from trace_cl.training.memory import (
    streaming,
)
from trace_cl.training.model import (
    count,
    frozen_modules,
    whole_bytes,
)


def tokens(phases: Sequence[Phase]) -> int:
    """Tokens, prompts and answers, that a round trains on."""
    return sum(phase.epochs * sum(map(len, phase.examples)) for phase in phases)


def select_first(strategy: Strategy, round: Round, model: PreTrainedModel) -> None:
    """Let learn what learns from the round's beginning on, in the modules that are the round's own: nothing in a round
    without phases. Raises as `select`."""
    strategy.prepare(round, model)
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


def plan_round(
    strategy: Strategy, round: Round, model: PreTrainedModel, base_bytes: int, global_batch: int
) -> dict[str, Any]:
    """What a round trains, on what, for how many steps; `select_first` has let its parameters learn.

    `extra_bytes` is what the method keeps besides weights, gradients and optimizer, as on one device, and what it has
    added to the parameters of the base model, which are `base_bytes`.
    """
    phases = strategy.phases(round)
    learning = count(set(model.parameters()), trainable=True)
    extra, streamed = (
        strategy.extra_bytes(round, learning),
        streaming(model, model.dtype, Layout(), strategy.streamed(round)),
    )
    return {
        "round": round.number,
        "task": round.task.name,
        "epochs": round.task.epochs,
        "examples": len(round.task.train),
        "phases": [{"name": p.name, "examples": len(p.examples), "epochs": p.epochs} for p in phases],
        "optimizer_steps": sum(phase.steps(global_batch) for phase in phases),
        "tokens": tokens(phases),
        "trainable_share": trainable_share(model),
        "trainable_parameters": learning,
        "frozen_modules": frozen_modules(model),
        "extra_bytes": {
            "device": extra.device + streamed.device + whole_bytes(model) - base_bytes,
            "host": extra.host + streamed.host,
        },
    }
