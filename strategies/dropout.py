"""Dropout (Srivastava et al., JMLR 2014) whose masks follow the examples, and not how a batch was cut.

An example's mask is drawn from the step's seed, the example and the module. So it is the same among whatever rows the
example stands, however far it is padded, on whichever rank, and when gradient checkpointing computes a layer once more.
"""

import torch
from torch import Tensor

from .base import Batch, Observer, Unsuitable
from .streams import stream


class ExampleDropout(Observer):
    """Set each input to zero with probability `p` in training, and scale the others by 1 / (1 − p).

    `number` tells the modules of one model apart. The step's seed is `torch.initial_seed()`: whoever trains sets it
    with every optimizer step, the same on all ranks.
    """

    def __init__(self, p: float, number: int) -> None:
        super().__init__()
        self.p = p
        self.number = number
        self.rows: list[tuple[int, int]] = []
        self.shape = (0, 0)

    def look_at(self, batch: Batch) -> None:
        count, width = batch.input_ids.shape
        self.rows, self.shape = batch.rows, (count, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs B × L × H, or B·L × H; the model may have put something of its own before each text.

        Raises Unsuitable for inputs that have lost their rows (a mixture's, sorted by experts).
        """
        if not self.training:
            return inputs
        count, width = self.shape
        spread = (
            inputs.view(count, -1, inputs.shape[-1]) if inputs.dim() == 2 and len(inputs) == count * width else inputs
        )
        if spread.dim() != 3 or len(spread) != count or spread.shape[1] < width:
            raise Unsuitable(
                f"strategy.dropout={self.p:g} cannot be drawn example by example in a matrix whose inputs are "
                f"{' × '.join(map(str, inputs.shape))}: set strategy.dropout=0, or other strategy.target_modules"
            )
        dropped = torch.zeros_like(spread, dtype=torch.bool)
        generator = torch.Generator(inputs.device)
        for mask, (identity, length) in zip(dropped, self.rows, strict=False):
            generator.manual_seed(stream(torch.initial_seed(), "dropout", self.number, identity))
            own = spread.shape[1] - width + length
            mask[:own] = torch.rand(own, spread.shape[2], generator=generator, device=inputs.device) < self.p
        return inputs.masked_fill(dropped.view_as(inputs), 0.0) / (1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}, number={self.number}"
