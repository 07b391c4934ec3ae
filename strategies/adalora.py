"""AdaLoRA: adapters whose ranks are allocated by what they matter (Zhang et al., ICLR 2023, arXiv 2303.10512).

Each adapted matrix is W + P Λ Q with a diagonal Λ (section 3.1; in peft `lora_B`, `lora_E` and `lora_A`). It begins
with more rank than it may keep. As the budget falls, those triplets of a column of P, an entry of Λ and a row of Q that
matter least, wherever they are, have their entry of Λ set to zero (sections 3.2 and 3.3, Algorithm 1): a weight w
matters by its sensitivity |w ∂L/∂w|, smoothed over the steps, times how much that varies. A regulariser keeps P and Q
orthogonal. The arithmetic is peft's.

The paper trains one task. Here the budget falls once, over the steps of the whole run: one adapter goes on through all
rounds, as in LoraSeqFT, and what is pruned for good in one round is missing in all later ones.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import torch
from peft import AdaLoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from .base import Batch, Bytes, Held, Learner, LoadModel, Model, Parts, Round
from .lora_seqft import put_on, targets
from .seqft import SeqFT
from .settings import BELOW_ONE, COUNT, NOT_NEGATIVE, Range

SMOOTHED = ("exp_avg_ipt", "exp_avg_unc")
"""Each weight's sensitivity, and how much it varies: moving averages, by peft's names."""

FACTOR = Range(0, 1, above=True, below=True)


@dataclass
class AdaLoRA(SeqFT):
    """Sequential fine-tuning of one adapter whose matrices have `r` triplets on average in the end.

    They begin with `initial_r` each. The budget stays there for `initial_share` of the run's optimizer steps, falls
    with the third power of what is left, every `interval` steps, and stays at `r` for the last `final_share`. `beta1`
    and `beta2` smooth sensitivity and its variation; `orthogonality` is the regulariser's weight γ. `alpha` /
    `initial_r` is the factor the adapter is added with, `dropout` that of its input. `target_modules` are the matrices
    that have one, by the ends of their names; null: those that peft adapts in this architecture. The checkpoint is in
    peft's own layout, pruned triplets included: until the last share of the steps they may come back.
    """

    r: int = 8  # ours: LoraSeqFT's, so that both end with the same number of parameters
    initial_r: int = 12  # the paper's: one and a half times the final budget (section 4)
    alpha: int = 32  # ours: LoraSeqFT's
    dropout: float = 0.1  # ours: LoraSeqFT's
    target_modules: list[str] | None = field(default_factory=lambda: ["q_proj", "v_proj"])  # ours: LoraSeqFT's
    orthogonality: float = 0.1  # the authors' scripts
    initial_share: float = 0.1  # the authors' script for MNLI: 8,000 of 86,000 steps
    final_share: float = 0.5  # ours: the authors' script for MNLI has 50,000 of 86,000 steps
    interval: int = 1  # ours: the authors' scripts have 100, in runs many times as long
    beta1: float = 0.85  # the authors' scripts
    beta2: float = 0.85  # the authors' scripts

    name = "adalora"
    changes_architecture = True
    uses = frozenset({"whole_parameters"})
    terms = ("orthogonality",)

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        COUNT.check("strategy.r", self.r)
        Range(self.r, above=True).check("strategy.initial_r", self.initial_r)
        COUNT.check("strategy.alpha", self.alpha)
        BELOW_ONE.check("strategy.dropout", self.dropout)
        NOT_NEGATIVE.check("strategy.orthogonality", self.orthogonality)
        BELOW_ONE.check("strategy.initial_share", self.initial_share)
        Range(0, 1 - self.initial_share, below=True).check("strategy.final_share", self.final_share)
        COUNT.check("strategy.interval", self.interval)
        FACTOR.check("strategy.beta1", self.beta1)
        FACTOR.check("strategy.beta2", self.beta2)
        self.smoothed: dict[str, dict[str, Tensor]] = {kind: {} for kind in SMOOTHED}
        self.kept: dict[str, list[bool]] = {}
        """Of each Λ, by its parameter's name, the entries that are not pruned; nothing before the budget falls."""

    def build(self, load: LoadModel, checkpoint: Path | None, rounds: Sequence[Round]) -> PreTrainedModel:
        steps = [sum(phase.steps(round.global_batch) for phase in self.phases(round)) for round in rounds]
        self.before = dict(zip((round.number for round in rounds), accumulate(steps, initial=0), strict=False))
        total = max(1, sum(steps))
        self.settled = total - int(self.final_share * total)
        model = load(None)
        config = AdaLoraConfig(
            task_type="CAUSAL_LM",
            target_r=self.r,
            init_r=self.initial_r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=targets(model, self.target_modules),
            beta1=self.beta1,
            beta2=self.beta2,
            tinit=int(self.initial_share * total),
            tfinal=total - self.settled,
            deltaT=self.interval,
            total_step=total,
        )
        self.model = put_on(model, config, checkpoint, rounds[0].seed if rounds else 0)
        self.allocator: Any = cast(Any, self.model.base_model).rankallocator
        return cast(PreTrainedModel, self.model)

    def save_model(self, model: PreTrainedModel, folder: Path, weights: dict[str, Tensor] | None) -> None:
        model.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)

    def trainable(self, round: Round, step: int, model: nn.Module) -> Collection[str] | None:
        """The adapter, in every round."""
        return [name for name, _ in model.named_parameters() if ".lora_" in name] if step == 0 else None

    def begin_round(self, round: Round, learner: Learner) -> None:
        self.step = self.before[round.number]
        self.take_up({kind: learner.scatter(self.smoothed[kind]) for kind in SMOOTHED})

    def take_up(self, smoothed: dict[str, Parts]) -> None:
        """Let the allocator go on from these averages."""
        for kind in SMOOTHED:
            setattr(self.allocator, kind, smoothed.get(kind, {}))
        # It begins anew with the averages of whatever it has no sensitivity of.
        self.allocator.ipt = dict.fromkeys(self.allocator.exp_avg_ipt)

    def loss(self, model: Model, batch: Batch) -> Tensor:
        loss = model.mean(batch)
        if not self.orthogonality:
            return loss
        term = batch.share * self.orthogonality * obliqueness(self.factors())
        batch.note("orthogonality", term)
        return loss + term

    def factors(self) -> Iterator[Tensor]:
        """Each Q (r × in), and each P transposed (r × out)."""
        for name, parameter in self.model.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                yield parameter if ".lora_A." in name else parameter.T

    def adjust_gradients(self, round: Round, learner: Learner) -> dict[str, Any]:
        """Look how sensitive the loss is to each weight, as long as that is asked for; the gradients stay."""
        self.step += 1
        if self.step < self.settled:
            self.allocator.update_ipt(self.model)
        budget, _ = self.allocator.budget_schedule(self.step)
        return {"budget": budget}

    def after_step(self, round: Round, learner: Learner) -> None:
        """Set the entries of Λ to zero that the budget has no room for."""
        budget, falls = self.allocator.budget_schedule(self.step)
        if self.step > self.settled:
            self.allocator.mask_using_rank_pattern(self.model, self.kept)
        elif falls or self.step == self.settled:
            self.kept = self.allocator.mask_to_budget(self.model, budget)
        if self.step == self.settled:
            self.allocator.reset_ipt()

    def end_round(self, round: Round, learner: Learner) -> dict[str, Any]:
        self.smoothed = {kind: learner.gather(getattr(self.allocator, kind)) for kind in SMOOTHED}
        matrices = len(self.allocator.name_set)
        return {"average_rank": sum(map(sum, self.kept.values())) / matrices if self.kept else self.initial_r}

    def extra_bytes(self, round: Round, trainable: int) -> Bytes:
        """Until the budget has settled, two averages and the sensitivity itself; between rounds the averages."""
        measures = self.before[round.number] + 1 < self.settled
        return Bytes(device=3 * 4 * trainable * measures, host=2 * 4 * trainable * measures)

    def hold(self) -> Held:
        return Held({"step": self.step, "kept": self.kept}, {kind: getattr(self.allocator, kind) for kind in SMOOTHED})

    def resume(self, held: Held) -> None:
        self.step, self.kept = held.values["step"], held.values["kept"]
        self.take_up(held.parts)

    def save(self, folder: Path) -> None:
        for kind, tensors in self.smoothed.items():
            save_file(tensors, folder / f"adalora_{kind}.safetensors")
        (folder / "adalora_kept.json").write_text(json.dumps(self.kept), encoding="utf-8")

    def restore(self, folder: Path) -> None:
        self.smoothed = {kind: load_file(folder / f"adalora_{kind}.safetensors") for kind in SMOOTHED}
        self.kept = json.loads((folder / "adalora_kept.json").read_text(encoding="utf-8"))


def obliqueness(factors: Iterator[Tensor]) -> Tensor:
    """The mean over matrices M (r × n) of ‖M Mᵀ − I‖: Frobenius norms, as in the authors' code and in peft, where the
    paper (equation 4) prints the sum of their squares."""
    products = [factor @ factor.T for factor in factors]
    return torch.stack([(product - torch.eye(len(product)).to(product)).norm() for product in products]).mean()
