"""GEM: gradient episodic memory (Lopez-Paz and Ranzato, NeurIPS 2017, arXiv 1706.08840).

A few examples of each finished task are kept. Before each optimizer step the gradient on every past task's memory is
computed; if the step would raise any of their losses, it is replaced by the closest one that raises none.

The program that finds it has one unknown a past task, so all that needs to be known of the gradients is the table of
their inner products. It is summed tensor by tensor, and over ranks; no gradient is ever flattened or gathered. Nor need
the memories' gradients be held: once the table is known, g + Σ v_k g_k is what one more backward pass over the memories
adds to g, each memory's loss multiplied by its v_k.
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from qpsolvers import solve_qp
from qpsolvers.exceptions import QPError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .base import Bytes, Example, Held, Learner, Parts, Round, Task
from .seqft import SeqFT
from .settings import COUNT, NOT_NEGATIVE

SOLVERS = ("quadprog", "daqp")
"""The first is the more exact on programs this small; the second stands in, should it give up."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

STREAMS: dict[str, Any] = {"memory": "examples", "projection": "whole", "refresh_every": 1, "memory_dtype": "fp32"}
"""The settings under which the memories' gradients need not be held."""


def project(gradient: Tensor, memories: Tensor, margin: float = 0.5, eps: float = 1e-3) -> Tensor:
    """The gradient (p), made to agree with every memory's gradient (k × p): g̃ = g + Gᵀv (equations 11 and 12).

    A gradient that agrees with all of them (g·g_k ≥ 0) is given back as it is.
    """
    rows = torch.cat([memories, gradient[None]]).double()
    v = multipliers((rows @ rows.T).cpu().numpy(), margin, eps)
    if v is None:
        return gradient
    projected = rows[-1] + torch.from_numpy(v).to(rows) @ rows[:-1]
    if projected.norm() < 1e-7 * rows[-1].norm():
        # What is left is rounding: no direction agrees with all memories.
        projected = torch.zeros_like(projected)
    return projected.to(gradient.dtype)


def multipliers(table: np.ndarray, margin: float, eps: float) -> np.ndarray | None:
    """v of min_v ½ vᵀ(GGᵀ + εI)v + (Gg)ᵀv subject to v ≥ margin (equation 11), or None if no constraint is violated.

    `table` ((k+1) × (k+1), float64) holds the inner products of g_1 … g_k and, last, g. Raises RuntimeError if neither
    solver finds an answer: the step is then unknown, and the raw gradient would be another method's.
    """
    gram, violation = table[:-1, :-1], table[:-1, -1]
    if not (violation < 0).any():
        return None
    norms = np.sqrt(np.diag(gram))
    v = np.full(len(norms), float(margin))
    some = norms > 0  # a memory without gradient neither constrains the step nor moves it
    if some.any():
        scale = np.sqrt(table[-1, -1]) / norms[some]
        quadratic = gram[np.ix_(some, some)] / np.outer(norms[some], norms[some]) + np.diag(eps / norms[some] ** 2)
        linear = violation[some] / (norms[some] * np.sqrt(table[-1, -1]))
        v[some] = scale * _solve(quadratic, linear, margin / scale)
    return v


def _solve(quadratic: np.ndarray, linear: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """min ½ uᵀPu + qᵀu subject to u ≥ lower.

    P has a unit diagonal, but memories may be parallel and P singular: a few proximal steps solve the same program with
    matrices that are not.
    """
    weight = 1e-13
    for solver in SOLVERS:
        u = lower
        try:
            for _ in range(3):
                nearer = solve_qp(quadratic + weight * np.eye(len(lower)), linear - weight * u, lb=lower, solver=solver)
                if nearer is None or not np.isfinite(nearer).all():
                    raise QPError("no answer")
                u = nearer
        except (QPError, ValueError) as error:
            warnings.warn(f"GEM: {solver} failed ({error})", stacklevel=2)
        else:
            return u
    raise RuntimeError(f"GEM: no solver of {', '.join(SOLVERS)} found an answer; the inner products were {linear}")


def inner_products(gradients: Sequence[Parts]) -> Tensor:
    """n × m × m, float64: for each of the n tensors, the inner products of the m gradients' parts of it.

    The names and the dtype are those of the last gradient.
    """
    tables = []
    for name, like in gradients[-1].items():
        parts = torch.stack([gradient[name].to(like.dtype).flatten() for gradient in gradients])
        tables.append((parts @ parts.T).double())
    return torch.stack(tables)


def keep(task: Task, size: int, draw: Random) -> list[int]:
    """Which of a task's training examples are kept: their indices, in order."""
    examples = range(len(task.train))
    return sorted(draw.sample(examples, min(size, len(examples))))


@dataclass
class GEM(SeqFT):
    """Sequential fine-tuning whose every step is made to agree with the past tasks' memories.

    `margin` is the least multiplier of each memory in a projection (v ≥ margin). After one g̃·g_k ≥ −eps·v_k: a positive
    `eps` makes the program well-posed, and gives way by that much (to memories whose gradient is small against it).

    `memory_size` examples are kept of each task, and each step looks at `memory_batch` of them, drawn anew;
    `refresh_every` recomputes their gradients only every so many steps. `memory_dtype` (`fp32`, `bf16`) is how the
    memories' gradients are held while a step is made.

    `memory_gradients` says whether they are: `stored`, of each past task as much as of the step itself; `streamed`, no
    longer than a layer's inner products are taken, at the price of a second pass over the memories (the same step, to
    rounding); `auto`, stored where there is room.

    TRACE's own variant, for comparison with its published figures: `projection=tensor` projects each tensor by itself,
    and `memory=last_batch` keeps, instead of examples, the gradient of each task's last batch.
    """

    memory_size: int = 64
    memory_batch: int = 16
    refresh_every: int = 1
    margin: float = 0.5
    eps: float = 1e-3
    memory: str = "examples"
    projection: str = "whole"
    memory_dtype: str = "fp32"
    memory_gradients: str = "auto"

    name = "gem"
    uses = frozenset({"gradients"})
    terms = ("projected",)

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        for key, allowed in (
            ("memory", ["examples", "last_batch"]),
            ("projection", ["whole", "tensor"]),
            ("memory_dtype", list(DTYPES)),
            ("memory_gradients", ["auto", "stored", "streamed"]),
        ):
            if getattr(self, key) not in allowed:
                raise ValueError(f"strategy.{key}={getattr(self, key)} is not one of {', '.join(allowed)}")
        for key in ("memory_size", "memory_batch", "refresh_every"):
            COUNT.check(f"strategy.{key}", getattr(self, key))
        for key in ("margin", "eps"):
            NOT_NEGATIVE.check(f"strategy.{key}", getattr(self, key))
        if self.memory_gradients == "streamed":
            for key, needed in STREAMS.items():
                if (value := getattr(self, key)) != needed:
                    raise ValueError(
                        f"strategy.memory_gradients=streamed needs strategy.{key}={needed}, and not {value}"
                    )
        self.kept: dict[str, list[int]] = {}
        self.last: dict[str, dict[str, Tensor]] = {}

    def begin_round(self, round: Round, learner: Learner) -> None:
        self.steps = self.projected = 0
        self.remembered: list[Parts] = []
        self.batch: Parts = {}
        self.past = {task.name: learner.scatter(self.last.get(task.name, {})) for task in round.past}

    def hold(self) -> Held:
        # Recalled gradients may serve several steps; the last batch's are what the round will have left.
        parts = {f"remembered{k}": part for k, part in enumerate(self.remembered)} if self.refresh_every > 1 else {}
        return Held({"steps": self.steps, "projected": self.projected}, {**parts, "batch": self.batch})

    def resume(self, held: Held) -> None:
        self.steps, self.projected = held.values["steps"], held.values["projected"]
        self.batch = held.parts.pop("batch", {})
        self.remembered = [held.parts[f"remembered{k}"] for k in range(len(held.parts))]

    def extra_bytes(self, round: Round, trainable: int) -> Bytes:
        if self.memory_gradients == "streamed":
            return Bytes()
        return Bytes(device=len(round.past) * trainable * DTYPES[self.memory_dtype].itemsize)

    def streamed(self, round: Round) -> list[list[Example]]:
        if self.memory_gradients != "streamed":
            return []
        return [sorted(task.train, key=len)[-min(self.memory_batch, self.memory_size) :] for task in round.past]

    def adjust_gradients(self, round: Round, learner: Learner) -> dict[str, Any]:
        if self.memory_gradients == "streamed":
            return self._stream(round, learner) if round.past else {}
        gradient = learner.take_gradients()
        if self.memory == "last_batch":
            self.batch = {name: part.clone() for name, part in self._held(gradient).items()}
        logged = self._project(round, learner, gradient) if round.past else {}
        learner.put_gradients(gradient)
        return logged

    def _project(self, round: Round, learner: Learner, gradient: Parts) -> dict[str, Any]:
        """Project the gradient in place; what happened, for the log."""
        if self.steps % self.refresh_every == 0:
            self.remembered = [self._recall(round, task, learner, gradient) for task in round.past]
        self.steps += 1
        tables = learner.sum_over_shards(inner_products([*self.remembered, gradient])).cpu().numpy()
        if self.projection == "whole":
            tables = np.broadcast_to(tables.sum(axis=0), tables.shape)
            solved = [multipliers(tables[0], self.margin, self.eps)] * len(tables)
        else:
            solved = [multipliers(table, self.margin, self.eps) for table in tables]
        for v, (name, part) in zip(solved, gradient.items(), strict=True):
            if v is not None:
                for weight, memory in zip(v, self.remembered, strict=True):
                    part.add_(memory[name].to(part.dtype), alpha=float(weight))
        return self._told(tables, solved)

    def _stream(self, round: Round, learner: Learner) -> dict[str, Any]:
        """The same with no memory's gradient at hand: first their inner products, then what they add to the step's."""
        memories = [self._draw(round, task) for task in round.past]
        self.steps += 1
        table = learner.inner_products(memories).cpu().numpy()
        v = multipliers(table, self.margin, self.eps)
        if v is not None:
            for weight, memory in zip(v, memories, strict=True):
                learner.backward(memory, float(weight))
        return self._told(table[None], [v])

    def _told(self, tables: np.ndarray, solved: Sequence[np.ndarray | None]) -> dict[str, Any]:
        """What became of a step, for the log: of its tables of inner products, and of each its multipliers."""
        projected = any(v is not None for v in solved)
        self.projected += projected
        after = [t[:-1, -1] if v is None else t[:-1, -1] + t[:-1, :-1] @ v for t, v in zip(tables, solved, strict=True)]
        return {
            "projected": projected,
            "least_inner_product": {"before": float(tables[:, :-1, -1].min()), "after": float(np.min(after))},
            "multipliers": np.max([v for v in solved if v is not None], axis=0).tolist() if projected else [],
        }

    def _recall(self, round: Round, task: Task, learner: Learner, like: Parts) -> Parts:
        """The gradient on a past task's memory, over the parameters that learn in this round."""
        if self.memory == "last_batch":
            # What did not learn in that task's round has no gradient from it.
            last = self.past[task.name]
            return {name: last[name] if name in last else torch.zeros_like(part) for name, part in like.items()}
        learner.backward(self._draw(round, task))
        return self._held(learner.take_gradients())

    def _draw(self, round: Round, task: Task) -> list[Example]:
        """What this step looks at of a past task's memory."""
        kept = self.kept[task.name]
        draw = Random(f"gem/{round.seed}/{round.number}/{self.steps}/{task.name}")
        return [task.train[index] for index in draw.sample(kept, min(self.memory_batch, len(kept)))]

    def _held(self, gradient: Parts) -> Parts:
        return gradient if self.memory_dtype == "fp32" else {name: part.bfloat16() for name, part in gradient.items()}

    def end_round(self, round: Round, learner: Learner) -> dict[str, Any]:
        if self.memory == "last_batch":
            self.last[round.task.name] = learner.gather(self.batch)
        self.remembered, self.past = [], {}
        self.kept[round.task.name] = keep(round.task, self.memory_size, Random(f"gem/{round.seed}/{round.number}"))
        return {
            "memory": self.kept[round.task.name],
            "memory_gradients": self.memory_gradients,
            "projected_steps": self.projected,
            "projected_share": self.projected / self.steps if self.steps else 0.0,
        }

    def save(self, folder: Path) -> None:
        (folder / "gem.json").write_text(json.dumps(self.kept))
        if self.last:
            flat = {f"{task}/{name}": part for task, last in self.last.items() for name, part in last.items()}
            save_file(flat, folder / "gem.safetensors")

    def restore(self, folder: Path) -> None:
        self.kept = json.loads((folder / "gem.json").read_text())
        if self.memory == "last_batch":
            for key, part in load_file(folder / "gem.safetensors").items():
                task, _, name = key.partition("/")
                self.last.setdefault(task, {})[name] = part
