"""How much memory a step takes at its worst moment, by the allocator's own account."""

from collections.abc import Callable
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

from trace_cl.training.torch_engine import TorchLearner


def peak(learner: TorchLearner, step: Callable[[], object]) -> int:
    """Bytes that live at once at most, weights and AdamW's moments among them, in a step that is not the first."""
    if learner.model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        return int(torch.cuda.max_memory_allocated())
    state = [tensor for each in learner.optimizer.state.values() for tensor in each.values()]
    standing: int = sum(tensor.nbytes for tensor in (*learner.model.parameters(), *state))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as account:
        step()
    events = account.profiler.kineto_results.events()
    changes: list[tuple[int, int]] = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    most: int = max(accumulate(change for _, change in changes))
    return standing + most
