"""The strategies, one file each, and `hft`, the wrapper round any of them. They import nothing of the runner.

`from trace_cl.strategies import SeqFT, Phase` is all that a strategy of one's own begins with (docs/extend.md).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Answerer as Answerer
    from .base import Batch as Batch
    from .base import Bytes as Bytes
    from .base import Example as Example
    from .base import Learner as Learner
    from .base import Model as Model
    from .base import Parts as Parts
    from .base import Phase as Phase
    from .base import Round as Round
    from .base import Strategy as Strategy
    from .base import Task as Task
    from .base import Unsuitable as Unsuitable
    from .seqft import SeqFT as SeqFT

_BASE = (
    "Answerer",
    "Batch",
    "Bytes",
    "Example",
    "Learner",
    "Model",
    "Parts",
    "Phase",
    "Round",
    "Strategy",
    "Task",
    "Unsuitable",
)
_HOMES = {**dict.fromkeys(_BASE, "base"), "SeqFT": "seqft"}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Names are looked up when first used: what only reads a configuration or a run must not import PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
