"""EWC: elastic weight consolidation (Kirkpatrick et al., PNAS 2017, arXiv 1612.00796), in its online form
(Schwarz et al., ICML 2018, arXiv 1805.06370, section 3.2).

A spring on every weight holds what the tasks so far depend on in place: λ/2 · Σ_i F_i (θ_i − θ*_i)². The anchor θ* is
where the last round ended; F, the diagonal of the Fisher information there, tells how fast the answers' likelihood
falls off.
"""

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .base import Bytes, Learner, Round
from .seqft import SeqFT
from .settings import COUNT, NOT_NEGATIVE, SHARE


@dataclass
class EWC(SeqFT):
    """Sequential fine-tuning with a quadratic penalty on moving the weights that past tasks need.

    `strength` is λ. The Fisher information of a task is the mean over `fisher_examples` of its training examples of the
    squared gradient of log p(answer | prompt), taken once its round has ended; with each task what there was before
    counts `decay` times as much (γ: 1 forgets nothing).
    """

    strength: float = 1000.0  # ours: the best of 1, 30 and 1,000 on the embedded benchmark; the papers set it by task
    decay: float = 1.0  # no past task counts less than the last
    fisher_examples: int = 64  # ours: as many as GEM keeps

    name = "ewc"
    uses = frozenset({"gradients", "weights"})
    terms = ("penalty",)

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        NOT_NEGATIVE.check("strategy.strength", self.strength)
        SHARE.check("strategy.decay", self.decay)
        COUNT.check("strategy.fisher_examples", self.fisher_examples)
        self.kept: dict[str, dict[str, Tensor]] = {"fisher": {}, "anchor": {}}

    def begin_round(self, round: Round, learner: Learner) -> None:
        self.fisher, self.anchor = learner.scatter(self.kept["fisher"]), learner.scatter(self.kept["anchor"])

    def adjust_gradients(self, round: Round, learner: Learner) -> dict[str, Any]:
        """Add the penalty's gradient, λF(θ − θ*), to the loss's."""
        if not round.past:
            return {}
        gradients, weights = learner.take_gradients(), learner.weights()
        penalty = torch.zeros((), dtype=torch.float64)
        for name in [name for name in gradients if name in self.fisher]:  # in one order, wherever they come from
            moved, fisher = weights[name] - self.anchor[name], self.fisher[name]
            gradients[name].add_(fisher * moved, alpha=self.strength)
            penalty += self.strength / 2 * (fisher * moved.square()).sum().double().cpu()
        learner.put_gradients(gradients)
        return {"penalty": learner.sum_over_shards(penalty).item()}

    def end_round(self, round: Round, learner: Learner) -> dict[str, Any]:
        """Measure the task's Fisher information, and move the anchor here.

        What did not learn in this round (HFT) keeps what it had: it has not moved.
        """
        task = round.task.train
        drawn = Random(f"ewc/{round.seed}/{round.number}").sample(task, min(self.fisher_examples, len(task)))
        fisher = {name: self.decay * part for name, part in self.fisher.items()}
        for example in drawn:
            learner.backward([example])
            for name, gradient in learner.take_gradients().items():
                # The loss is a mean over the answer's tokens, its log-likelihood the sum.
                score = gradient.float() * len(example.answer)
                fisher[name] = fisher.get(name, torch.zeros_like(score)).addcmul_(score, score, value=1 / len(drawn))
        self.kept["fisher"] |= learner.gather(fisher)
        self.kept["anchor"] |= learner.gather(learner.weights())
        self.fisher, self.anchor = {}, {}
        return {"fisher_examples": len(drawn)}

    def extra_bytes(self, round: Round, trainable: int) -> Bytes:
        return Bytes(device=2 * 4 * trainable if round.past else 0, host=2 * 4 * trainable)

    def save(self, folder: Path) -> None:
        for name, tensors in self.kept.items():
            save_file(tensors, folder / f"ewc_{name}.safetensors")

    def restore(self, folder: Path) -> None:
        self.kept = {name: load_file(folder / f"ewc_{name}.safetensors") for name in self.kept}
