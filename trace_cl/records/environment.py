"""What a run runs on: versions, commit, hardware."""

import os
import platform
import subprocess
from importlib.metadata import version
from typing import Any

import torch

from trace_cl.records.files import PACKAGE

LIBRARIES = (
    "trace-cl",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "hydra-core",
    "rouge-score",
    "rapidfuzz",
    "numpy",
)


def describe(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Everything that may explain a difference between two runs of one configuration."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "commit": _commit(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "device": gpu or device.type,
        "cuda": torch.version.cuda,
    }


def _commit() -> str | None:
    """The checkout's commit, marked where files were changed since; None outside a checkout."""
    command = ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
