"""A-GEM: averaged gradient episodic memory (Chaudhry et al., ICLR 2019, arXiv 1812.00420).

GEM with one constraint instead of one a task: a step may not raise the mean loss over all past tasks' memories. One
reference gradient, on examples drawn from all of them together, is all that a step takes, however many tasks there
were, and the program that GEM solves has a closed form.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from .base import Bytes, Held, Learner, Round
from .gem import inner_products, keep
from .seqft import SeqFT
from .settings import COUNT


@dataclass
class AGEM(SeqFT):
    """Sequential fine-tuning whose every step is made to agree with the past tasks' memories on average: where
    g·g_ref < 0 the gradient becomes g̃ = g − (g·g_ref / g_ref·g_ref) g_ref (section 4, equation 11).

    `memory_size` examples are kept of each task; each step looks at `memory_batch` of all that are kept, drawn anew.
    """

    memory_size: int = 64  # ours: as many as GEM keeps
    memory_batch: int = 128  # ours: as many as a step learns from, so that neither gradient is noisier

    name = "agem"
    uses = frozenset({"gradients"})
    terms = ("projected",)

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        COUNT.check("strategy.memory_size", self.memory_size)
        COUNT.check("strategy.memory_batch", self.memory_batch)
        self.kept: dict[str, list[int]] = {}

    def begin_round(self, round: Round, learner: Learner) -> None:
        self.steps = self.projected = 0
        self.memory = [task.train[index] for task in round.past for index in self.kept[task.name]]

    def hold(self) -> Held:
        return Held({"steps": self.steps, "projected": self.projected})

    def resume(self, held: Held) -> None:
        self.steps, self.projected = held.values["steps"], held.values["projected"]

    def extra_bytes(self, round: Round, trainable: int) -> Bytes:
        return Bytes(device=4 * trainable if round.past else 0)

    def adjust_gradients(self, round: Round, learner: Learner) -> dict[str, Any]:
        if not self.memory:
            return {}
        gradient = learner.take_gradients()
        draw = Random(f"agem/{round.seed}/{round.number}/{self.steps}")
        learner.backward(draw.sample(self.memory, min(self.memory_batch, len(self.memory))))
        reference = learner.take_gradients()
        table = learner.sum_over_shards(inner_products([reference, gradient]).sum(dim=0))
        square, product = table[0].tolist()
        if product < 0:
            for name, part in gradient.items():
                part.add_(reference[name], alpha=-product / square)
        learner.put_gradients(gradient)
        self.steps += 1
        self.projected += product < 0
        return {"projected": product < 0, "inner_product": {"before": product, "after": max(product, 0.0)}}

    def end_round(self, round: Round, learner: Learner) -> dict[str, Any]:
        draw = Random(f"agem/{round.seed}/{round.number}")
        self.kept[round.task.name] = keep(round.task, self.memory_size, draw)
        return {
            "memory": self.kept[round.task.name],
            "projected_steps": self.projected,
            "projected_share": self.projected / self.steps if self.steps else 0.0,
        }

    def save(self, folder: Path) -> None:
        (folder / "agem.json").write_text(json.dumps(self.kept))

    def restore(self, folder: Path) -> None:
        self.kept = json.loads((folder / "agem.json").read_text())
