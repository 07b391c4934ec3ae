"""The tensors of a checkpoint's file, when they are just those that are asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .base import Learner, Parts, Unsuitable

MEND = "move the run away and start anew"


def read_tensors(path: Path, expected: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """A safetensors file, whose names and shapes must be these.

    Raises Unsuitable, naming the file and the first tensor, where one is missing, of another shape or too many.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise Unsuitable(f"{path} is no whole safetensors file ({error}); {MEND}") from error
    for name in sorted(found.keys() | expected.keys()):
        if name not in found:
            raise Unsuitable(f"{path} lacks {name}; {MEND}")
        if name not in expected:
            raise Unsuitable(f"{path} holds {name}, which has no place in the model; {MEND}")
        if (here := list(found[name].shape)) != (wanted := list(expected[name])):
            raise Unsuitable(f"{path} holds {name} as {here}, where the model has {wanted}; {MEND}")
    return found


def parts_of(model: nn.Module, learner: Learner) -> Parts:
    """Another model's weights (a freshly loaded one's, whole on each rank), dealt out as the learner's: those of the
    parameters that learn in this round."""
    return learner.scatter({name: parameter.detach() for name, parameter in model.named_parameters()})
