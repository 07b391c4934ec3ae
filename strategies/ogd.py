"""OGD: orthogonal gradient descent (Farajtabar et al., AISTATS 2020, arXiv 1910.07104).

After each round a few examples' gradients of what the model predicts are kept. A later step goes at right angles to all
of them, so that to first order these predictions stay as they are: g̃ = g − Σ <g, v> v over an orthonormal basis {v} of
what is kept.

That holds of a step along g̃. AdamW divides each coordinate by its own running scale and remembers past steps, and so
turns the step back towards the basis to some extent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .base import Batch, Bytes, Learner, Model, Parts, Round
from .gem import DTYPES
from .seqft import SeqFT
from .settings import NOT_NEGATIVE

ROUNDING = 1e-5
"""A direction of which no more than this part is left has nothing to add to the basis: what is left is rounding."""


class Basis:
    """Orthonormal directions in the space of all parameters that learn: a matrix for each tensor, a row a direction.

    Each rank has its own part of every direction; `total` sums over ranks what they computed from their parts.
    """

    def __init__(self, like: Parts, room: int, dtype: torch.dtype | None, total: Callable[[Tensor], Tensor]) -> None:
        """An empty one with room for so many directions; their dtype is that of `like` where none is given."""
        self.rows = {name: part.new_zeros(room, part.numel(), dtype=dtype) for name, part in like.items()}
        self.total = total
        self.size = 0

    def norm(self, vector: Parts) -> float:
        """Its length, over all tensors and ranks."""
        squares = torch.stack([part.double().square().sum() for part in vector.values()])
        return float(self.total(squares.sum()).sqrt())

    def remove(self, vector: Parts) -> float:
        """Take out of the vector, in place, what lies in the directions; gives that part's length."""
        if not self.size:
            return 0.0
        rows = {name: self.rows[name][: self.size].to(part.dtype) for name, part in vector.items()}
        products = [(rows[name] @ part.flatten()).double() for name, part in vector.items()]
        coefficients = self.total(torch.stack(products).sum(dim=0))
        for name, part in vector.items():
            part.sub_((coefficients.to(part.dtype) @ rows[name]).view_as(part))
        return float(coefficients.norm())

    def add(self, vector: Parts) -> bool:
        """Make what is new in the vector another direction; whether anything was.

        Gram-Schmidt, twice: the second time removes what rounding left the first time.
        """
        length = self.norm(vector)
        self.remove(vector)
        self.remove(vector)
        left = self.norm(vector)
        if left <= ROUNDING * length:
            return False
        for name, part in vector.items():
            self.rows[name][self.size] = part.flatten() / left
        self.size += 1
        return True


@dataclass
class OGD(SeqFT):
    """Sequential fine-tuning at right angles to the gradients of what the model predicts on past tasks.

    `examples` training examples are drawn of each task, and of each one gradient is kept. `gradients` says of what:
    `logit`, the true tokens' logits, a mean over the answer (the paper's OGD-GTL); `loss`, the example's loss.
    `memory_dtype` (`fp32`, `bf16`) is how they, and the basis made of them, are held.
    """

    examples: int = 10  # ours: the paper's 200 (section 4) are 200 copies of the model a task
    gradients: str = "logit"  # the paper's choice (section 3.1)
    memory_dtype: str = "fp32"

    name = "ogd"
    uses = frozenset({"gradients", "weights"})
    terms = ("projected",)

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        for key, allowed in (("gradients", ["logit", "loss"]), ("memory_dtype", list(DTYPES))):
            if getattr(self, key) not in allowed:
                raise ValueError(f"strategy.{key}={getattr(self, key)} is not one of {', '.join(allowed)}")
        NOT_NEGATIVE.check("strategy.examples", self.examples)
        self.dtype = None if self.memory_dtype == "fp32" else DTYPES[self.memory_dtype]
        self.kept: list[dict[str, Tensor]] = []
        self.measuring = False

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """The cross-entropy, or while gradients are kept what they are the gradient of."""
        if not self.measuring:
            return model.mean(batch)
        logits = model.logits(batch).gather(1, batch.targets[:, None])
        return batch.mean(logits.to(torch.promote_types(logits.dtype, torch.float32)))

    def begin_round(self, round: Round, learner: Learner) -> None:
        """Make the basis: of the part of what is kept that belongs to the parameters learning now (HFT)."""
        like = learner.weights()
        self.basis = Basis(like, len(self.kept), self.dtype, learner.sum_over_shards)
        for whole in self.kept:
            gradient = learner.scatter(whole)
            self.basis.add(
                {
                    name: gradient[name].to(part.dtype, copy=True) if name in gradient else torch.zeros_like(part)
                    for name, part in like.items()
                }
            )

    def adjust_gradients(self, round: Round, learner: Learner) -> dict[str, Any]:
        if not self.basis.size:
            return {}
        gradient = learner.take_gradients()
        length = self.basis.norm(gradient)
        removed = self.basis.remove(gradient)
        learner.put_gradients(gradient)
        return {"projected": removed > 0, "removed_share": removed / length if length else 0.0}

    def end_round(self, round: Round, learner: Learner) -> dict[str, Any]:
        directions, known = self.basis.size, len(self.kept)
        del self.basis
        task, draw = round.task.train, Random(f"ogd/{round.seed}/{round.number}")
        self.measuring = self.gradients == "logit"
        for example in draw.sample(task, self._count(round)):
            learner.backward([example])
            gradient = learner.take_gradients()
            held = {name: part.to(self.dtype or part.dtype) for name, part in gradient.items()}
            self.kept.append(learner.gather(held))
        self.measuring = False
        return {"directions": directions, "dropped": known - directions, "kept": len(self.kept)}

    def extra_bytes(self, round: Round, trainable: int) -> Bytes:
        """The basis on the device; in main memory what it is made of, and what this round adds."""
        past = sum(min(self.examples, len(task.train)) for task in round.past)
        each = trainable * DTYPES[self.memory_dtype].itemsize
        return Bytes(device=past * each, host=(past + self._count(round)) * each)

    def _count(self, round: Round) -> int:
        """How many gradients this round adds; after the last nothing is to be protected."""
        return 0 if round.last else min(self.examples, len(round.task.train))

    def save(self, folder: Path) -> None:
        flat = {f"{number}/{name}": part for number, whole in enumerate(self.kept) for name, part in whole.items()}
        save_file(flat, folder / "ogd.safetensors")

    def restore(self, folder: Path) -> None:
        found: dict[int, dict[str, Tensor]] = {}
        for key, part in load_file(folder / "ogd.safetensors").items():
            number, _, name = key.partition("/")
            found.setdefault(int(number), {})[name] = part
        self.kept = [found[number] for number in sorted(found)]
