"""A round in its middle, on disk: weights, optimizer and what the strategy knows, as whole tensors.

Every rank takes part, since each holds but its part; the first writes. They come and go a few tensors at a time, so
that a model's optimizer need not fit into main memory, and may be read by another number of ranks.
"""

from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import load_file, save_file

from trace_cl.strategies.base import Held, Learner, Parts
from trace_cl.training.engine import RoundLearner
from trace_cl.training.ranks import Ranks

AT_ONCE = 32
"""Tensors in a file: those of four layers or so."""

STRATEGY = "strategy."
"""What a strategy's own tensors are marked with."""


def save(learner: RoundLearner, held: Held, folder: Path | None) -> dict[str, int]:
    """Write the learner's state, and what the strategy holds; gives the steps each parameter has made."""
    steps, kinds = learner.state()
    for kind, parts in (kinds | {f"{STRATEGY}{name}": parts for name, parts in held.parts.items()}).items():
        names = list(parts)
        for first in range(0, len(names), AT_ONCE):
            whole = learner.gather({name: parts[name] for name in names[first : first + AT_ONCE]})
            if folder is not None:
                file = folder / f"{kind}-{first:05}.safetensors"
                save_file({name: value.contiguous() for name, value in whole.items()}, file)
    return steps


def load(learner: RoundLearner, steps: dict[str, int], folder: Path, ranks: Ranks) -> dict[str, Parts]:
    """Put the learner back where it was; gives the strategy's own tensors."""
    learner.begin_from(steps)
    own: dict[str, Parts] = {}
    for kind, parts in _dealt_out(learner, folder, ranks):
        if kind.startswith(STRATEGY):
            own.setdefault(kind.removeprefix(STRATEGY), {}).update(parts)
        else:
            learner.put_state(kind, parts)
    return own


def _dealt_out(learner: Learner, folder: Path, ranks: Ranks) -> Iterator[tuple[str, Parts]]:
    names = ranks.broadcast(sorted(path.name for path in folder.glob("*-*[0-9].safetensors")) if ranks.first else [])
    for name in names:
        yield name.rpartition("-")[0], learner.scatter(load_file(folder / name) if ranks.first else {})
