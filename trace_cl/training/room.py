"""What is done where a device's memory gives out: once in a run the token budget is halved, which changes no result."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from trace_cl.errors import UserError
from trace_cl.strategies.base import Batch
from trace_cl.training.model import cut_matters


class Budget:
    """How many tokens go through the model at once."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.halved = False

    def halve(self, shape: str) -> None:
        """Go on with half of it, and say so; `shape` is the micro-batch that was too large."""
        self.tokens //= 2
        self.halved = True
        gc.collect()
        torch.cuda.empty_cache()
        tqdm.write(
            f"out of memory at a micro-batch of {shape}: training goes on with half of training.tokens_per_batch, "
            f"{self.tokens}, which changes no result",
            file=sys.stderr,
        )


class DoesNotFit(UserError):
    """A micro-batch was too large for the memory."""

    def __init__(self, batch: Batch, model: PreTrainedModel) -> None:
        self.rows, length = batch.input_ids.shape
        self.shape = f"{self.rows} × {length} tokens"
        self.divisible = self.rows > 1 and not cut_matters(model)
        mends = ["set engine.gradient_checkpointing=true", "spread the model over more devices (engine=deepspeed)"]
        if self.rows > 1:
            lower = "set training.tokens_per_batch lower"
            if cut_matters(model):
                lower += (
                    " in a run begun anew (this model's own dropout follows the cut, so it is not halved of itself)"
                )
            mends.insert(0, lower)
        super().__init__(f"out of memory at a micro-batch of {self.shape}: {', or '.join(mends)}")


@contextmanager
def fitting(batch: Batch, model: PreTrainedModel) -> Iterator[None]:
    """Raises DoesNotFit where the memory gives out, the GPU's or the machine's."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if gave_out(error):
            raise DoesNotFit(batch, model) from error
        raise


def gave_out(error: RuntimeError | MemoryError) -> bool:
    """Whether it was the memory, the GPU's or the machine's."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
