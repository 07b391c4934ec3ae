"""The engines: how a round's gradients are made and followed, on one device (PyTorch alone) or on many (DeepSpeed)."""

import torch

from trace_cl.config import EngineConfig
from trace_cl.engines.base import Engine, Optimization
from trace_cl.engines.torch_engine import TorchEngine
from trace_cl.errors import UserError
from trace_cl.memory import Layout
from trace_cl.model import device_and_dtype
from trace_cl.ranks import Ranks


def processes(settings: EngineConfig, device: str) -> int:
    """How many processes of one machine take part. Raises UserError for a number that cannot be."""
    if settings.processes == "auto":
        on_gpus = device_and_dtype(device, None)[0] == torch.device("cuda")
        return torch.cuda.device_count() if on_gpus and settings.name != "torch" else 1
    if not isinstance(settings.processes, int) or settings.processes < 1:
        raise UserError(f"engine.processes={settings.processes} is neither auto nor a number of processes")
    if settings.name == "torch" and settings.processes > 1:
        raise UserError(f"engine.processes={settings.processes} needs engine=deepspeed: engine=torch is for one")
    return settings.processes


def layout(settings: EngineConfig, ranks: int) -> Layout:
    """What these settings spread a round over."""
    spread = settings.name == "deepspeed" or (settings.name == "auto" and ranks > 1)
    return Layout(
        stage=settings.zero_stage if spread else 0,
        ranks=ranks,
        offload_optimizer=settings.offload_optimizer and spread,
        gradient_checkpointing=settings.gradient_checkpointing,
    )


def build(
    settings: EngineConfig,
    optimization: Optimization,
    device: torch.device,
    tokens_per_batch: int,
    ranks: Ranks,
    reads_gradients: str,
) -> Engine:
    """The engine these settings name; the strategy tells what it reads of the gradients.

    Raises UserError where an engine cannot do what is asked, or is not installed.
    """
    several = ranks.size > 1
    if settings.name == "torch" or (settings.name == "auto" and not several):
        if several:
            raise UserError(f"engine=torch is for one process, and there are {ranks.size}: set engine=deepspeed")
        return TorchEngine(optimization, device, tokens_per_batch, settings.gradient_checkpointing)
    if settings.offload_optimizer and settings.zero_stage == 0:
        raise UserError("engine.offload_optimizer=true needs engine.zero_stage=2 or 3")
    if settings.offload_optimizer and reads_gradients != "nothing":
        raise UserError("engine.offload_optimizer=true leaves this strategy no gradients to read; set it to false")
    if settings.zero_stage > 0 and reads_gradients == "whole":
        raise UserError(
            f"engine.zero_stage={settings.zero_stage} leaves no rank a whole gradient to keep: set engine.zero_stage=0"
        )
    try:
        from trace_cl.engines.deepspeed_engine import DeepSpeedEngine
    except ImportError as error:
        raise UserError(f"engine=deepspeed needs a package ({error}): pip install 'trace-cl[deepspeed]'") from error
    return DeepSpeedEngine(
        optimization,
        device,
        tokens_per_batch,
        ranks,
        gradient_checkpointing=settings.gradient_checkpointing,
        zero_stage=settings.zero_stage,
        offload_optimizer=settings.offload_optimizer,
        gather=settings.gather,
    )
