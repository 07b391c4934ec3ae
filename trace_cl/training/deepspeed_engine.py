"""The engine on many devices and machines: DeepSpeed, with the optimizer's state, the gradients and the weights spread
over the ranks (ZeRO, arXiv 1910.02054: stage 0 spreads nothing, 2 the first two, 3 all three).

What learns is held in fp32 by the optimizer, as on one device. Between two rounds nothing of DeepSpeed is left: the
model is a plain one, whole on every rank, as long as it fits there; if not, its weights stay spread (stage 3).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trace_cl.data.batches import answer_tokens, collate, micro_batches, shares
from trace_cl.strategies.base import Answerer, Example, Parts
from trace_cl.training import deepspeed_private as private
from trace_cl.training.engine import Optimization, adamw, cast, checkpoint_gradients, trainable
from trace_cl.training.loss import LanguageModel, Loss, plain
from trace_cl.training.ranks import Ranks

deepspeed = private.load()

ROOM = 0.75
"""A whole copy of the weights may take this share of a device's free memory; answering needs the rest."""


@dataclass
class DeepSpeedEngine:
    """`gather` says whether each rank gets a whole copy of the weights between rounds; None: if it fits."""

    optimization: Optimization
    device: torch.device
    tokens_per_batch: int
    ranks: Ranks
    gradient_checkpointing: bool = False
    zero_stage: int = 2
    offload_optimizer: bool = False
    gather: bool | None = None

    def __post_init__(self) -> None:
        private.connect(self.device)
        self.partitioned = False

    def place(self, model: PreTrainedModel) -> None:
        checkpoint_gradients(model, self.gradient_checkpointing)
        self.plain = private.attributes(model)
        self._settle(model)

    def train(self, model: PreTrainedModel, loss: Loss = plain, answerer: Answerer | None = None) -> "DeepSpeedLearner":
        if self.partitioned:
            private.close(self.server)
            private.strip(model, self.plain)
        return DeepSpeedLearner(self, model, loss, answerer)

    def weights(self, model: PreTrainedModel) -> dict[str, Any] | None:
        """A partitioned model's weights, gathered one by one into the first rank's main memory."""
        return private.gather_state(model, self.ranks.first) if self.partitioned else None

    def _settle(self, model: PreTrainedModel) -> None:
        """A plain model on every rank, or one that gathers each layer when it comes to it."""
        self.partitioned = self.zero_stage == 3 and not self._fits(model)
        if self.partitioned:
            private.strip(model, self.plain)
            private.loosen(model)
            [self.server, *_] = deepspeed.initialize(model=model, config=self.config(model))
        else:
            private.renew(model, self.device, self.plain)
        model.eval()

    def _fits(self, model: PreTrainedModel) -> bool:
        """Whether a whole copy fits on every rank, by what is free there now."""
        if self.gather is not None:
            return self.gather
        if self.device.type == "cpu":
            return True  # it was loaded there
        free, _ = torch.cuda.mem_get_info(self.device)
        whole = private.bytes_of_weights(model)
        too_large = torch.tensor(float(whole > ROOM * free), device=self.device)
        return not self.ranks.sum(too_large).item()

    def config(self, model: PreTrainedModel) -> dict[str, Any]:
        """What DeepSpeed is told. The batching is ours: it sees micro-batches, and where a step ends."""
        # By default a bucket is half a billion numbers: more than many a model.
        zero: dict[str, Any] = {"stage": self.zero_stage, "reduce_bucket_size": model.config.hidden_size**2}
        if self.offload_optimizer:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": self.device.type == "cuda"}
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self.optimization.clip_norm if self.zero_stage > 0 else 0.0,
            "steps_per_print": sys.maxsize,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            # Stage 0 trains as one device does: what learns in fp32, under autocast.
            "bf16": {"enabled": model.dtype == torch.bfloat16 and self.zero_stage > 0},
            "data_types": {"grad_accum_dtype": "fp32"},
        }


class DeepSpeedLearner:
    """Trains one round."""

    def __init__(self, engine: DeepSpeedEngine, model: PreTrainedModel, loss: Loss, answerer: Answerer | None) -> None:
        self.answerer = answerer
        self.place, self.ranks, self.model = engine._settle, engine.ranks, model
        self.tokens_per_batch, self.clip_norm = engine.tokens_per_batch, engine.optimization.clip_norm
        self.dtype, self.device = model.dtype, engine.device
        names = trainable(model)
        mixed_here = self.dtype == torch.bfloat16 and engine.zero_stage == 0
        if mixed_here:
            cast(names.values(), torch.float32)
        [self.engine, optimizer, *_] = deepspeed.initialize(
            model=LanguageModel(model, loss, autocast=mixed_here),
            optimizer=adamw(names.values(), engine.optimization),
            config=engine.config(model),
        )
        self.gradients: private.Whole | private.Shards
        if engine.zero_stage == 0:
            self.gradients = private.Whole(names)
        else:
            self.gradients = private.Shards(optimizer, names)
        self.engine.train()

    def backward(self, examples: Sequence[Example]) -> float:
        """Each rank takes its share, balanced by tokens.

        DeepSpeed averages over the ranks, so each rank's sum is divided by the whole batch's token count and multiplied
        by their number. All walk through equally many micro-batches, the last of them perhaps empty.
        """
        total = answer_tokens(examples)
        parts = [[examples[i] for i in share] for share in shares([len(e) for e in examples], self.ranks.size)]
        cuts = [micro_batches(part, self.tokens_per_batch) for part in parts]
        most = max(map(len, cuts))
        mine = cuts[self.ranks.rank]
        loss = torch.zeros((), device=self.device, dtype=torch.float64)
        for number, micro_batch in enumerate([*mine, *[[]] * (most - len(mine))], start=1):
            self.engine.set_gradient_accumulation_boundary(number == most)
            part = self.engine(collate(micro_batch, total, self.device))
            self.engine.backward(part * self.ranks.size, scale_wrt_gas=False)
            loss += part.detach()
        return self.ranks.sum(loss).item()

    def take_gradients(self) -> Parts:
        """Take this rank's part of the gradients away, by parameter name; the next backward begins from nothing."""
        return self.gradients.take()

    def put_gradients(self, gradients: Parts) -> None:
        """Put gradients in the place of what is there."""
        self.gradients.put(gradients)

    def sum_over_shards(self, table: Tensor) -> Tensor:
        """The sum over ranks; or the table itself where every rank holds whole gradients."""
        return table if isinstance(self.gradients, private.Whole) else self.ranks.sum(table)

    def step(self) -> float:
        if isinstance(self.gradients, private.Whole):  # where DeepSpeed clips, but does not tell the norm
            norm = nn.utils.clip_grad_norm_(self.gradients.parameters.values(), self.clip_norm)
            self.engine.step()
            return norm.item()
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def close(self) -> None:
        private.close(self.engine)
        del self.engine, self.gradients
        cast(trainable(self.model).values(), self.dtype)
        self.place(self.model)
