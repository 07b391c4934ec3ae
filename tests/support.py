"""What the tests share: composing a configuration, and finding real data."""

import os
from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig

from trace_cl.config import CONF_DIR

TASKS = ("C-STANCE", "FOMC", "MeetingBank")


def compose(*overrides: str) -> DictConfig:
    """The configuration a command line with these overrides makes."""
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return hydra.compose("config", list(overrides))


def find_trace_root() -> Path:
    """Real TRACE data, or a skip that says why."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "trace-500"
    root = Path(os.environ.get("TRACE_ROOT", beside))
    if not root.is_dir():
        pytest.skip(f"no TRACE data: $TRACE_ROOT is not set and {beside} is not there")
    return root
