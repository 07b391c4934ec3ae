"""All that is known of DeepSpeed's insides (0.19.8): where it keeps gradients, and what it leaves behind on a model."""

import gc
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]  # it is documented, if not listed

from trace_cl.strategies.base import Parts, shape_of


def load() -> Any:
    """The package, told not to compile anything, and to keep its news to itself."""
    warnings.filterwarnings("ignore", "`torch.distributed.*is deprecated", FutureWarning)
    with redirect_stdout(StringIO()):
        import deepspeed
        from deepspeed.ops import __compatible_ops__

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Ranks on one CPU machine would compile a faster all-reduce first, for half a minute.
    __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def connect(device: torch.device) -> None:
    """Let DeepSpeed use the connection between the ranks; a single process gets one to itself."""
    import deepspeed

    backend = "nccl" if device.type == "cuda" else "gloo"
    if not dist.is_initialized():
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    os.environ.setdefault("LOCAL_RANK", "0")
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)


class Whole:
    """The gradients under stage 0: whole on every rank, where PyTorch keeps them."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = parameters

    def take(self) -> Parts:
        """Take the gradients away."""
        taken: Parts = {}
        for name, parameter in self.parameters.items():
            taken[name] = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            parameter.grad = None
        return taken

    def put(self, gradients: Parts) -> None:
        """Put these in their place."""
        for name, parameter in self.parameters.items():
            parameter.grad = gradients[name]


class Shards:
    """The gradients under stages 2 and 3: this rank's slice of each parameter's, empty where it holds none of it.

    They are only there after the last micro-batch's backward. Slices that fill a partition up belong to no parameter.
    """

    def __init__(self, optimizer: Any, parameters: Mapping[str, nn.Parameter]) -> None:
        self.optimizer = optimizer
        self.parameters = parameters
        self.names = {id(parameter): name for name, parameter in parameters.items()}
        self.layout: dict[int, list[str | Tensor]] = {}

    def _slices(self) -> Iterator[tuple[int, str | None, Tensor]]:
        owned = getattr(self.optimizer, "params_in_partition", None) or self.optimizer.fp16_groups
        for group, gradients in self.optimizer.averaged_gradients.items():
            names = (self.names[id(parameter)] for parameter in owned[group])
            for gradient in gradients:
                yield group, None if getattr(gradient, "_zero_padding", False) else next(names, None), gradient

    def take(self) -> Parts:
        """Take the gradients away."""
        taken = {name: torch.zeros(0, device=parameter.device) for name, parameter in self.parameters.items()}
        self.layout = {}
        for group, name, gradient in self._slices():
            self.layout.setdefault(group, []).append(gradient if name is None else name)
            if name is not None:
                # Stage 3 writes every gradient into the same buffer.
                taken[name] = gradient.clone() if hasattr(self.optimizer, "fp16_groups") else gradient
        self.optimizer.averaged_gradients = dict.fromkeys(self.layout)
        if hasattr(self.optimizer, "all_grad_tensors"):
            self.optimizer.all_grad_tensors = dict.fromkeys(self.layout)
        self.optimizer.zero_grad(set_to_none=True)
        return taken

    def put(self, gradients: Parts) -> None:
        """Put these in their place."""
        for group, slices in self.layout.items():
            self.optimizer.averaged_gradients[group] = [gradients[s] if isinstance(s, str) else s for s in slices]


def close(engine: Any) -> None:
    """End an engine: its hooks off the model, its buffers given up.

    Closures of its own keep it alive, out of the garbage collector's sight; so it is emptied.
    """
    engine.destroy()
    for hook in (engine.module_forward_pre_hook, engine.module_forward_post_hook):
        hook.remove()
    vars(engine.optimizer).clear()


Attributes = dict[nn.Module, set[str]]


def attributes(model: nn.Module) -> Attributes:
    """What the modules of a plain model hold, by name."""
    return {module: set(vars(module)) for module in model.modules()}


def renew(model: nn.Module, device: torch.device, plain: Attributes) -> None:
    """Make a plain model of it again: its parameters whole, on the device, its modules with nothing but what they held.

    The parameters are new ones, because the old lead to the engine that trained them, and keep it alive.
    """
    strip(model, plain)
    fresh: dict[int, nn.Parameter] = {}
    old: list[nn.Parameter] = []
    for module in model.modules():
        parameters, module._parameters = dict(module._parameters), {}
        for name, parameter in parameters.items():
            if parameter is not None and id(parameter) not in fresh:
                fresh[id(parameter)] = nn.Parameter(_whole(parameter).to(device), parameter.requires_grad)
                old.append(parameter)
            module._parameters[name] = None if parameter is None else fresh[id(parameter)]
    for parameter in old:
        vars(parameter).clear()
    model.to(device)
    gc.collect()


def strip(model: nn.Module, plain: Attributes) -> None:
    """Leave the modules nothing but what they held; a later engine would go on using what an earlier one left."""
    for module in model.modules():
        for leftover in vars(module).keys() - plain[module]:
            delattr(module, leftover)


def loosen(model: nn.Module) -> None:
    """Give the shards of a spread model memory of their own, instead of slices of the last engine's buffer."""
    for parameter in model.parameters():
        if hasattr(parameter, "ds_tensor"):
            parameter.ds_tensor.data = parameter.ds_tensor.data.clone()


def _whole(parameter: nn.Parameter) -> Tensor:
    """A copy of a parameter's values."""
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
        return parameter.detach().clone()


def gather_state(model: nn.Module, keep: bool) -> dict[str, Tensor] | None:
    """The whole weights in main memory, or None where they are not to be kept; every rank takes part."""
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        value = _whole(parameter)
        if keep:
            state[name] = value.cpu()
    state.update({name: buffer for name, buffer in model.state_dict().items() if name not in state})
    return state if keep else None


def bytes_of_weights(model: nn.Module) -> int:
    """Of the whole model, wherever its parts lie."""
    return sum(shape_of(p).numel() * p.element_size() for p in model.parameters())
