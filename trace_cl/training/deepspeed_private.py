"""All that is known of DeepSpeed's insides (0.19.8): where it keeps weights and gradients, what it leaves behind."""

import copy
import gc
import logging
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]  # it is documented, if not listed
from transformers import PreTrainedModel

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
        # Without a port, which others may want too.
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    os.environ.setdefault("LOCAL_RANK", "0")  # its engine will not start without
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)


class Whole:
    """What a rank holds of each parameter that learns, under stage 0: all of it, where PyTorch keeps it."""

    def __init__(self, optimizer: Any, parameters: Mapping[str, nn.Parameter]) -> None:
        self.optimizer = optimizer
        self.parameters = parameters

    def at_hand(self) -> Parts:
        """The gradients where they are; none of a parameter that had no part in the loss."""
        return {name: p.grad for name, p in self.parameters.items() if p.grad is not None}

    def set_aside(self) -> dict[int, list[Tensor]]:
        """What the next backward would forget instead of adding to it: nothing."""
        return {}

    def add(self, aside: dict[int, list[Tensor]]) -> None:
        """Add what was set aside."""

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

    def weights(self) -> Parts:
        """The values themselves."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def write(self, weights: Parts) -> None:
        """Put these values in the place of what is there."""
        for name, part in weights.items():
            self.parameters[name].copy_(part)

    def adamw(self) -> tuple[torch.optim.Optimizer, list[Tensor]]:
        """PyTorch's optimizer, and the tensors it steps with."""
        return self.optimizer, list(self.parameters.values())

    def moment(self, name: str, kind: str) -> Tensor:
        """This rank's part of what the optimizer keeps of a parameter."""
        kept: Tensor = self.optimizer.state[self.parameters[name]][kind]
        return kept

    def cut(self, name: str, whole: Tensor) -> Tensor:
        """This rank's part of a whole tensor."""
        return whole

    def paste(self, name: str, part: Tensor) -> Tensor | None:
        """The part in the whole tensor's shape, zero where other ranks have theirs; None: it is all there is."""
        return None


class Shards(ABC):
    """The same under stages 2 and 3: a slice of each flattened parameter, empty where this rank holds none of it.

    The optimizer keeps fp32 values of its slices. `held` tells of each parameter where the slice starts, and those
    values; it is known from the round's beginning. Gradients are only there after the last micro-batch's backward.
    """

    def __init__(self, optimizer: Any, parameters: Mapping[str, nn.Parameter]) -> None:
        self.optimizer = optimizer
        self.parameters = parameters
        self.held = {name: self._slice_of(parameter) for name, parameter in parameters.items()}

    @abstractmethod
    def _slice_of(self, parameter: nn.Parameter) -> tuple[int, Tensor]: ...

    @abstractmethod
    def at_hand(self) -> Parts:
        """The gradients where they are; none of a parameter of which this rank holds nothing."""

    def set_aside(self) -> dict[int, list[Tensor]]:
        """What the next backward would forget instead of adding to it, by group."""
        return {}

    def add(self, aside: dict[int, list[Tensor]]) -> None:  # noqa: B027  # there may be nothing to do
        """Add what was set aside."""

    @abstractmethod
    def take(self) -> Parts:
        """Take the gradients away."""

    @abstractmethod
    def put(self, gradients: Parts) -> None:
        """Put these in their place."""

    @abstractmethod
    def adamw(self) -> tuple[torch.optim.Optimizer, list[Tensor]]:
        """PyTorch's optimizer, and the tensors it steps with: many parameters' slices side by side."""

    @abstractmethod
    def moment(self, name: str, kind: str) -> Tensor:
        """This rank's part of what the optimizer keeps of a parameter."""

    @abstractmethod
    def _publish(self) -> None:
        """Bring what the optimizer holds into the model, on all ranks."""

    def weights(self) -> Parts:
        """The optimizer's values."""
        return {name: values for name, (_, values) in self.held.items()}

    def write(self, weights: Parts) -> None:
        """Put these values in the place of what is there."""
        for name, part in weights.items():
            self.held[name][1].copy_(part)
        self._publish()

    def cut(self, name: str, whole: Tensor) -> Tensor:
        """This rank's part of a whole tensor."""
        start, values = self.held[name]
        return whole.flatten()[start : start + len(values)].clone()

    def paste(self, name: str, part: Tensor) -> Tensor | None:
        """The part in the whole tensor's shape, zero where other ranks have theirs."""
        start, values = self.held[name]
        whole = part.new_zeros(shape_of(self.parameters[name]))
        whole.view(-1)[start : start + len(values)] = part
        return whole


class Stage2(Shards):
    """All parameters lie one after another in one flat tensor, of which each rank has a stretch."""

    def __init__(self, optimizer: Any, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__(optimizer, parameters)
        self.names = {id(parameter): name for name, parameter in parameters.items()}
        self.layout: dict[int, list[str | Tensor]] = {}

    def _slice_of(self, parameter: Any) -> tuple[int, Tensor]:
        mapping = parameter._hp_mapping  # from the low-precision parameter to the optimizer's stretch
        if mapping is None:
            return 0, torch.zeros(0, device=parameter.device)
        return mapping.lp_fragment_address.start, mapping.hp_fragment.detach()

    def _slices(self) -> Iterator[tuple[int, str | None, Tensor]]:
        for group, gradients in self.optimizer.averaged_gradients.items():
            names = (self.names[id(parameter)] for parameter in self.optimizer.params_in_partition[group])
            for gradient in gradients:
                # What fills the last stretch up belongs to no parameter; it is marked, or comes last.
                yield group, None if getattr(gradient, "_zero_padding", False) else next(names, None), gradient

    def at_hand(self) -> Parts:
        return {name: gradient.flatten() for _, name, gradient in self._slices() if name is not None}

    def set_aside(self) -> dict[int, list[Tensor]]:
        # It adds in a buffer of its own, and only in bf16; a list it replaces.
        groups = self.optimizer.averaged_gradients.items()
        return {group: each for group, each in groups if each and getattr(each, "flat_partition", None) is None}

    def add(self, aside: dict[int, list[Tensor]]) -> None:
        for group, gradients in aside.items():
            torch._foreach_add_(list(self.optimizer.averaged_gradients[group]), gradients)

    def take(self) -> Parts:
        taken = {name: torch.zeros(0, device=parameter.device) for name, parameter in self.parameters.items()}
        self.layout = {}
        for group, name, gradient in self._slices():
            self.layout.setdefault(group, []).append(gradient if name is None else name)
            if name is not None:
                taken[name] = gradient.flatten()
        # A backward adds to what it finds in either.
        self.optimizer.averaged_gradients = dict.fromkeys(self.layout)
        self.optimizer.all_grad_tensors = dict.fromkeys(self.layout)
        self.optimizer.zero_grad(set_to_none=True)
        return taken

    def put(self, gradients: Parts) -> None:
        for group, slices in self.layout.items():
            self.optimizer.averaged_gradients[group] = [gradients[s] if isinstance(s, str) else s for s in slices]

    def adamw(self) -> tuple[torch.optim.Optimizer, list[Tensor]]:
        return self.optimizer.optimizer, self.optimizer.single_partition_of_fp32_groups

    def moment(self, name: str, kind: str) -> Tensor:
        mapping: Any = self.parameters[name]._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:
            return self.held[name][1]
        optimizer, flat = self.adamw()
        place = mapping.hp_fragment_address
        kept: Tensor = optimizer.state[flat[mapping.param_group_index]][kind]
        return kept.narrow(0, place.start, place.numel)

    def _publish(self) -> None:
        self.optimizer.update_lp_params()


class Stage3(Shards):
    """Each parameter is cut into as many slices as there are ranks, the last filled up to the others' length.

    What fills it up is never initialised, and stays out of sight.
    """

    def _slice_of(self, parameter: nn.Parameter) -> tuple[int, Tensor]:
        values, _ = self.optimizer._get_fp32_opt_state_partition(parameter, release_swap_buffers=True)
        start = dist.get_rank() * len(values)
        return start, values.detach()[: max(0, shape_of(parameter).numel() - start)]

    def _gradients(self) -> Iterator[tuple[str, Tensor]]:
        """Where each gradient lies, all through the round."""
        for name, parameter in self.parameters.items():
            gradient, _ = self.optimizer._get_fp32_grad_state_partition(parameter, release_swap_buffers=True)
            yield name, gradient[: len(self.held[name][1])]

    def at_hand(self) -> Parts:
        return dict(self._gradients())

    def take(self) -> Parts:
        taken = {name: gradient.clone() for name, gradient in self._gradients()}
        # After this the next backward writes over what is there; else it adds to it.
        self.optimizer.zero_grad(set_to_none=True)
        return taken

    def put(self, gradients: Parts) -> None:
        for name, gradient in self._gradients():
            gradient.copy_(gradients[name])

    def adamw(self) -> tuple[torch.optim.Optimizer, list[Tensor]]:
        return self.optimizer.optimizer, self.optimizer.fp32_partitioned_groups_flat

    def moment(self, name: str, kind: str) -> Tensor:
        kept: Tensor
        kept, _ = self.optimizer._get_fp32_opt_state_partition(self.parameters[name], True, optim_state_key=kind)
        return kept[: len(self.held[name][1])]

    def _publish(self) -> None:
        # What the end of a step does: give up what was gathered by the old values, and gather anew what stays so.
        self.optimizer.checkpoint_event_prologue()
        for group in range(len(self.optimizer.fp16_groups)):
            self.optimizer._reassign_or_swap_out_partitioned_parameters(group)
        self.optimizer.checkpoint_event_epilogue()


def close(engine: Any) -> None:
    """End an engine: its hooks off the model, its buffers given up.

    Closures of its own keep it alive, out of the garbage collector's sight; so it is emptied.
    """
    engine.destroy()
    # It forgets these two, which lead from the model to it.
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
    for old in _replace(model, lambda p: nn.Parameter(_whole(p).to(device), p.requires_grad)):
        vars(old).clear()
    model.to(device)
    gc.collect()


def _replace(model: nn.Module, new: Callable[[nn.Parameter], nn.Parameter]) -> list[nn.Parameter]:
    """Give the modules other parameters; what is tied stays so. Gives the old ones."""
    fresh: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        # ZeRO-3 has put a dictionary of its own there.
        parameters, module._parameters = dict(module._parameters), {}
        for name, parameter in parameters.items():
            if parameter is not None and parameter not in fresh:
                fresh[parameter] = new(parameter)
            module._parameters[name] = None if parameter is None else fresh[parameter]
    return list(fresh)


def skeleton(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a plain model without its weights (they are on the meta device)."""
    # What is in the memo counts as copied.
    without = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, without)


def clothe(skeleton: PreTrainedModel, model: nn.Module, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """A copy of a skeleton with what its model's weights are now, whole on every rank, gathered one by one."""
    clothed = copy.deepcopy(skeleton)
    weights = dict(zip(clothed.parameters(), model.parameters(), strict=True))
    _replace(clothed, lambda p: nn.Parameter(_whole(weights[p]).to(device, dtype), requires_grad=False))
    clothed.to(device)  # type: ignore[arg-type]  # the library's wrapper hides the method's own signature
    clothed.eval()
    return clothed


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
