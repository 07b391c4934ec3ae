"""On how many devices a round's tensors are spread, and how: what the settings of an engine come to.

It loads no model, and imports nothing that does: who starts the ranks of a run has to know no more.
"""

from dataclasses import dataclass

import torch

from trace_cl.config import EngineConfig
from trace_cl.errors import UserError
from trace_cl.training.automatic import AUTO

ROOM = 0.75
"""Under stage 3 a whole copy of the weights, to answer with, may take this share of a device's free memory; answering
needs the rest."""


@dataclass(frozen=True)
class Layout:
    """What a round's tensors are spread over: ZeRO's stage (0 spreads nothing) and the number of ranks."""

    stage: int = 0
    ranks: int = 1
    offload_optimizer: bool = False
    gradient_checkpointing: bool = False

    def held_in_fp32(self, dtype: torch.dtype) -> bool:
        """Whether what learns is itself held in fp32, not as a copy in the optimizer."""
        return self.stage == 0 and dtype == torch.bfloat16


def device_and_dtype(device: str, dtype: str | None) -> tuple[torch.device, torch.dtype]:
    """`auto` is the GPU where there is one; by default weights are bf16 there and fp32 on the CPU.

    Raises UserError for a GPU that is not there.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    elif device != "cpu" and int(device.partition(":")[2] or 0) >= gpus:
        raise UserError(
            f"device={device}: PyTorch finds {gpus or 'no'} GPU{'s' * (gpus != 1)} on this machine; "
            "set device=cpu, or leave it at auto"
        )
    types = {"bf16": torch.bfloat16, "fp32": torch.float32}
    return torch.device(device), types[dtype or ("fp32" if device == "cpu" else "bf16")]


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
        gradient_checkpointing=settings.gradient_checkpointing not in (False, AUTO),
    )
