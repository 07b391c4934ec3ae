"""Part of a model frozen in anybody's `transformers.Trainer`, or in a trainer that is one, as TRL's are.

Trainer makes its optimizer when `train` is called, of what requires a gradient just then, and reads a checkpoint's
optimizer state into it before it tells its callbacks that training begins. What stays frozen is therefore frozen when
the trainer has been made (`on_init_end`): then no optimizer, no shard of one and no bucket of gradients ever knows of
it.

What is to change within a training cannot be: the optimizer is made of everything, and what does not learn has no
gradient. Optimizers pass over what has none, and make state at a parameter's first step, so that what is frozen has
none; what leaves loses its own. The optimizer's groups, and so weight decay, the scheduler, and the numbers by which a
checkpoint names its parameters, stay as Trainer made them. One that was rebuilt would have to be brought to all who
hold the old one, and could not read a checkpoint's state, which is read before anybody can say what is to learn.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.training_args import ParallelMode

from .hft import parameters_of, select
from .layers import trainable_share
from .selection import Selection

REDRAW = ("never", "epoch", "call")


class FreezingCallback(TrainerCallback, ExportableState):
    """Freezes what `draw` says of a round: `round` at first, and the next where another is drawn."""

    def __init__(self, round: int, redraw: str) -> None:
        if redraw not in REDRAW:
            raise ValueError(f"redraw={redraw} is not one of {', '.join(REDRAW)}")
        self.round = round
        self.redraw = redraw
        self.frozen: list[str] = []
        self.trainable_share = 1.0
        self.calls = 0

    def settings(self) -> dict[str, Any]:
        """Its arguments, as JSON holds them."""
        raise NotImplementedError

    def draw(self, model: nn.Module, round: int) -> list[str]:
        """The names of the modules that are frozen in a round, from the settings alone."""
        raise NotImplementedError

    def parameters(self, model: nn.Module, frozen: list[str]) -> set[str]:
        """The names of these modules' parameters."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What a checkpoint's `trainer_state.json` says of it."""
        return {"args": self.settings(), "attributes": {"calls": self.calls, "frozen": self.frozen}}

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Freeze what no draw will set free. Raises ValueError where that cannot be, or could not be kept."""
        model: nn.Module = kwargs["model"]
        self._check(args, model)
        if self.redraw == "never":
            self._freeze(model, self.round)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on as the checkpoint did, if there is one. Raises ValueError where this is another draw."""
        model: nn.Module = kwargs["model"]
        recorded = cast(dict[str, Any], state.stateful_callbacks).get(self._name)
        if recorded is None or recorded["args"] != self.settings():
            was = "without it" if recorded is None else f"with {_spelled(recorded['args'])}"
            raise ValueError(
                f"{self._name} has {_spelled(self.settings())}, but the checkpoint was trained {was}; "
                "resume it as it was trained, or begin a training of its own"
            )
        self.calls = recorded["attributes"]["calls"]
        self._check(args, model)
        if not _sharded():
            before = self.frozen if self.redraw == "never" else []
            self._redraw(state, model, kwargs["optimizer"])
            if before and before != self.frozen:
                raise ValueError(
                    f"{self._name} was changed to {_spelled(self.settings())} when its trainer had been made; "
                    'make a new trainer for each half, or let redraw="call" draw anew whenever it trains'
                )
        elif not self.frozen or all(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(
                f"{self._name} came after the optimizer was dealt out over the ranks; give it to the trainer when that "
                "is made (callbacks=[…]), together with the model itself instead of model_init"
            )

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw anew, if that was asked for."""
        if self.redraw == "epoch":
            self._redraw(state, kwargs["model"], kwargs["optimizer"])

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Say the trainable share beside each loss, in the trainer's history and in what is printed."""
        if "loss" in kwargs["logs"]:
            kwargs["logs"]["trainable_share"] = state.log_history[-1]["trainable_share"] = self.trainable_share

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let everything learn again that learned before."""
        self.calls += 1
        # DeepSpeed would save what was frozen as if its optimizer held it; the next trainer's callback sets it free.
        if not _sharded():
            thaw(kwargs["model"])

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _check(self, args: TrainingArguments, model: nn.Module) -> None:
        if hasattr(model, "peft_config"):
            raise ValueError(
                f"{self._name} cannot be combined with peft: the model stays frozen and adapters are trained instead, "
                "so that there is no part of it to choose; leave out either the adapters or the callback"
            )
        if self.redraw == "never":
            return
        if _sharded():
            raise ValueError(
                f'{self._name}(redraw="{self.redraw}") cannot be under DeepSpeed or FSDP, whose optimizer is dealt out '
                "over the ranks when training begins; make a trainer for each draw, with round=1, round=2, …"
            )
        finds_unused = args.ddp_find_unused_parameters
        if finds_unused is None:
            finds_unused = not args.gradient_checkpointing  # as Trainer decides
        if args.parallel_mode == ParallelMode.DISTRIBUTED and not finds_unused:
            raise ValueError(
                f'{self._name}(redraw="{self.redraw}") on several ranks needs ddp_find_unused_parameters=True among '
                "the training arguments: each rank would wait for gradients of what is frozen"
            )

    def _redraw(self, state: TrainerState, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        passed = {"never": 0, "epoch": int(state.epoch or 0), "call": self.calls}[self.redraw]
        self._freeze(model, self.round + passed)
        for parameter in model.parameters():
            if is_frozen_here(parameter):
                optimizer.state.pop(parameter, None)

    def _freeze(self, model: nn.Module, round: int) -> None:
        thaw(model)
        self.frozen = self.draw(model, round)
        for name in self.parameters(model, self.frozen):
            parameter = model.get_parameter(name)
            if parameter.requires_grad:
                parameter.requires_grad_(False)
                setattr(parameter, MARK, True)
        self.trainable_share = trainable_share(model)


MARK = "frozen_by_callback"
"""The attribute of a parameter that a callback froze, so that it is set free again whatever became of that callback: of
a training that was interrupted nobody hears the end."""


def is_frozen_here(parameter: nn.Parameter) -> bool:
    """Whether a callback froze it."""
    return hasattr(parameter, MARK)


def thaw(model: nn.Module) -> None:
    """Let learn again what a callback froze."""
    for parameter in model.parameters():
        if is_frozen_here(parameter):
            parameter.requires_grad_(True)
            delattr(parameter, MARK)


def _sharded() -> bool:
    """Whether the optimizer is made of flat shards of what learns when training begins. There is a trainer, and so
    accelerate, whose configuration may have come from anywhere."""
    from accelerate.state import AcceleratorState  # type: ignore[import-untyped]

    return AcceleratorState().distributed_type.value in ("DEEPSPEED", "FSDP")


def _spelled(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


class HalfFineTuningCallback(FreezingCallback):
    """HFT for anybody's `transformers.Trainer`, or TRL's `SFTTrainer` or `DPOTrainer`: one training is one round.

        Trainer(model, args, train_dataset=…, callbacks=[HalfFineTuningCallback(round=1)]).train()

    The half of `(seed, round)` is frozen when the trainer is made, before it makes its optimizer, which so holds no
    state for it; it is set free when training ends (under DeepSpeed and FSDP when the next trainer is made). Raise
    `round` with each trainer to draw another half, or let one trainer redraw it: `redraw="epoch"` takes `round` in the
    first epoch, `round + 1` in the second, and so on, `redraw="call"` the next whenever `train` is called. What goes on
    learning then keeps its optimizer state, what is frozen loses it, what is set free begins without.

    `resume_from_checkpoint` goes on with the same half, and is refused to a callback with other arguments. `frozen` are
    the names of the frozen modules. `trainable_share` stands beside each loss in the trainer's log: trained / all
    parameters of the layers' matrices. `selection` is a `Selection`, or a mapping of its fields.

    Raises:
        ValueError: for a model with peft's adapters; for a redraw under DeepSpeed or FSDP; where round, seed or
            selection have changed since the trainer was made, or are not the checkpoint's.
    """

    def __init__(
        self,
        round: int = 1,
        seed: int = 1,
        selection: Selection | Mapping[str, Any] | None = None,
        redraw: str = "never",
    ) -> None:
        super().__init__(round, redraw)
        self.seed = seed
        self.selection = selection if isinstance(selection, Selection) else Selection(**(selection or {}))

    def settings(self) -> dict[str, Any]:
        """Its arguments, as JSON holds them."""
        return {"round": self.round, "seed": self.seed, "selection": asdict(self.selection), "redraw": self.redraw}

    def draw(self, model: nn.Module, round: int) -> list[str]:
        """This round's half."""
        return select(model, round, self.seed, self.selection)

    def parameters(self, model: nn.Module, frozen: list[str]) -> set[str]:
        """The names of these modules' parameters."""
        return parameters_of(model, frozen)
