"""The engines: how a round's gradients are made and followed, on one device (PyTorch alone) or on many (DeepSpeed)."""

from collections.abc import Callable, Collection
from dataclasses import replace
from importlib import import_module
from types import ModuleType

import torch

from trace_cl.config import EngineConfig
from trace_cl.errors import UserError
from trace_cl.strategies.base import Use
from trace_cl.training.engine import Engine, Optimization
from trace_cl.training.layout import layout
from trace_cl.training.ranks import Ranks
from trace_cl.training.torch_engine import TorchEngine


def check(settings: EngineConfig, ranks: int, uses: Collection[Use]) -> None:
    """Raise UserError where no engine could do what is asked; the strategy tells what it uses of the learner."""
    wanted = layout(settings, ranks)
    if settings.name == "torch" and ranks > 1:
        raise UserError(f"engine=torch is for one process, and there are {ranks}: set engine=deepspeed")
    if settings.offload_optimizer and settings.name != "deepspeed" and ranks == 1:
        raise UserError("engine.offload_optimizer=true needs engine=deepspeed on one device")
    if wanted.offload_optimizer and wanted.stage == 0:
        raise UserError("engine.offload_optimizer=true needs engine.zero_stage=2 or 3")
    if wanted.offload_optimizer and {"gradients", "weights"} & set(uses):
        raise UserError(
            "engine.offload_optimizer=true leaves this strategy no gradients or weights to work on: set it to false"
        )
    if wanted.gradient_checkpointing and "past_keys" in uses:
        raise UserError(
            "engine.gradient_checkpointing=true computes each layer once more without the keys and values that this "
            "strategy puts before the text's: set it to false"
        )
    if settings.name == "deepspeed" or ranks > 1:
        if "changing_parameters" in uses:
            raise UserError(
                "this strategy changes within a round which parameters learn, and DeepSpeed cannot: "
                "set engine=torch, on one device"
            )
        if "whole_parameters" in uses:
            raise UserError(
                "this strategy works on whole parameters and gradients, and DeepSpeed deals them out: "
                "set engine=torch, on one device"
            )
        if "whole_weights" in uses and wanted.stage == 3:
            raise UserError(
                "engine.zero_stage=3 deals all weights out, and this strategy holds them in a form that cannot be: "
                "set engine.zero_stage=2"
            )
        if "snapshot" in uses and settings.gather is False:
            raise UserError(
                "engine.gather=false leaves no device a whole model, and this strategy keeps a frozen one: "
                "leave engine.gather out"
            )
        _deepspeed()


def choose(
    settings: EngineConfig, ranks: int, uses: Collection[Use], fits: Callable[[EngineConfig], bool]
) -> EngineConfig:
    """What `auto` comes to; `fits` tells whether the devices have room for what such settings need."""
    if settings.name != "auto":
        return settings
    if ranks > 1:
        return replace(settings, name="deepspeed")
    alone = replace(settings, name="torch")
    offloaded = replace(settings, name="deepspeed", zero_stage=2, offload_optimizer=True)
    return alone if fits(alone) or uses or not fits(offloaded) else offloaded


def build(
    settings: EngineConfig, optimization: Optimization, device: torch.device, tokens_per_batch: int, ranks: Ranks
) -> Engine:
    """The engine these settings name."""
    if settings.name == "torch":
        return TorchEngine(optimization, device, tokens_per_batch, settings.gradient_checkpointing)
    engine: Engine = _deepspeed().DeepSpeedEngine(
        optimization,
        device,
        tokens_per_batch,
        ranks,
        gradient_checkpointing=settings.gradient_checkpointing,
        zero_stage=settings.zero_stage,
        offload_optimizer=settings.offload_optimizer,
        gather=settings.gather,
    )
    return engine


def _deepspeed() -> ModuleType:
    """The engine that is imported only when it is chosen."""
    try:
        return import_module("trace_cl.training.deepspeed_engine")
    except ImportError as error:
        raise UserError(f"engine=deepspeed needs a package ({error}): pip install 'trace-cl[deepspeed]'") from error
