"""The engine on many devices and machines: DeepSpeed, with the optimizer's state, the gradients and the weights spread
over the ranks (ZeRO, arXiv 1910.02054: stage 0 spreads nothing, 2 the first two, 3 all three).

What learns is held in fp32 by the optimizer, as on one device. Between two rounds nothing of DeepSpeed is left: the
model is a plain one, whole on every rank, as long as it fits there; if not, its weights stay spread (stage 3).
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trace_cl.data.batches import answer_tokens, collate, micro_batches, shares
from trace_cl.errors import UserError
from trace_cl.strategies.base import Answerer, Batch, Example, Parts
from trace_cl.training import deepspeed_private as private
from trace_cl.training.engine import MOMENTS, WEIGHTS, Optimization, Tally, adamw, cast, checkpoint_gradients, trainable
from trace_cl.training.layerwise import inner_products
from trace_cl.training.layout import ROOM
from trace_cl.training.loss import LanguageModel, Loss, plain
from trace_cl.training.ranks import Ranks
from trace_cl.training.room import fitting

deepspeed = private.load()


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
        self.server: Any = None

    def to_devices(self, model: PreTrainedModel) -> None:
        if self.partitioned:
            private.close(self.server)
        checkpoint_gradients(model, self.gradient_checkpointing)
        self.plain, self.skeleton = private.attributes(model), private.skeleton(model)
        self.settle(model)

    def train(self, model: PreTrainedModel, loss: Loss = plain, answerer: Answerer | None = None) -> "DeepSpeedLearner":
        if self.partitioned:
            private.close(self.server)
            private.strip(model, self.plain)
        return DeepSpeedLearner(self, model, loss, answerer)

    def weights(self, model: PreTrainedModel) -> dict[str, Any] | None:
        """A partitioned model's weights, gathered one by one into the first rank's main memory."""
        return private.gather_state(model, self.ranks.first) if self.partitioned else None

    def settle(self, model: PreTrainedModel) -> None:
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
            # PyTorch's own AdamW, on a device and off it: DeepSpeed's would be compiled first, for a minute.
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
        self.parent, self.ranks, self.model = engine, engine.ranks, model
        self.tokens_per_batch, self.clip_norm = engine.tokens_per_batch, engine.optimization.clip_norm
        self.dtype, self.device = model.dtype, engine.device
        self.noted: dict[str, float] = {}
        self.parameters = trainable(model)
        self.autocast = self.dtype == torch.bfloat16 and engine.zero_stage == 0
        if self.autocast:
            cast(self.parameters.values(), torch.float32)
        self.objective = LanguageModel(model, loss, self.autocast)
        [self.engine, optimizer, *_] = deepspeed.initialize(
            model=self.objective,
            optimizer=adamw(self.parameters.values(), engine.optimization),
            config=engine.config(model),
        )
        self.held: private.Whole | private.Shards
        if engine.zero_stage == 0:
            self.held = private.Whole(optimizer, self.parameters)
        else:
            self.held = (private.Stage2 if engine.zero_stage < 3 else private.Stage3)(optimizer, self.parameters)
        self.engine.train()

    def change(self) -> None:
        """Raises UserError."""
        raise UserError(
            "DeepSpeed cannot change within a round which parameters learn: set engine=torch, on one device"
        )

    def backward(self, examples: Sequence[Example], weight: float = 1.0) -> float:
        """Each rank takes its share, balanced by tokens.

        DeepSpeed averages over the ranks, so each rank's sum is divided by the whole batch's token count and multiplied
        by their number. All walk through equally many micro-batches, the last of them perhaps empty.

        Raises UserError for a micro-batch that does not fit: the others are in the middle of theirs, and cannot cut
        anew.
        """
        batches, tally, before = self._share(examples), Tally(self.device), self.held.set_aside()
        for number, batch in enumerate(batches, start=1):
            self.engine.set_gradient_accumulation_boundary(number == len(batches))
            with fitting(batch, self.model):
                part = self.engine(batch)
                self.engine.backward(part * (weight * self.ranks.size), scale_wrt_gas=False)
            tally.add(part, batch)
        self.held.add(before)
        loss, self.noted = tally.read(self.ranks.sum(tally.sums()))
        return loss

    def _share(self, examples: Sequence[Example]) -> list[Batch]:
        """The micro-batches of this rank, as many as any has."""
        total = answer_tokens(examples)
        parts = [[examples[i] for i in share] for share in shares([len(e) for e in examples], self.ranks.size)]
        cuts = [micro_batches(part, self.tokens_per_batch) for part in parts]
        mine, most = cuts[self.ranks.rank], max(map(len, cuts))
        return [collate(each, total, self.device) for each in [*mine, *[[]] * (most - len(mine))]]

    def inner_products(self, batches: Sequence[Sequence[Example]]) -> Tensor:
        cut = [self._share(examples) for examples in batches]
        table = inner_products(self.objective, cut, self.parameters, self.held.at_hand(), self._part)
        return self.sum_over_shards(table)

    def _part(self, name: str, gradient: Tensor) -> Tensor:
        return self.held.cut(name, self.ranks.sum(gradient.clone(memory_format=torch.contiguous_format)))

    def take_gradients(self) -> Parts:
        return self.held.take()

    def put_gradients(self, gradients: Parts) -> None:
        self.held.put(gradients)

    def sum_over_shards(self, table: Tensor) -> Tensor:
        if isinstance(self.held, private.Whole):
            return table
        return self.ranks.sum(table.to(self.device, copy=True)).to(table.device)

    def weights(self) -> Parts:
        return self.held.weights()

    def set_weights(self, weights: Parts) -> None:
        self.held.write(weights)

    def gather(self, parts: Parts) -> dict[str, Tensor]:
        """One tensor at a time is whole on the devices."""
        gathered: dict[str, Tensor] = {}
        for name, part in parts.items():
            pasted = self.held.paste(name, part)
            # What is offloaded lies in main memory, where the ranks may have no connection.
            whole = part if pasted is None else self.ranks.sum(pasted.to(self.device))
            if self.ranks.first:
                gathered[name] = whole.detach().to("cpu", copy=True)
        return gathered

    def scatter(self, whole: dict[str, Tensor]) -> Parts:
        """Every rank is sent all of each tensor, and keeps its part."""
        named = self.ranks.broadcast([(n, t.shape, t.dtype) for n, t in whole.items() if n in self.parameters])
        parts: Parts = {}
        for name, shape, dtype in named:
            sent = torch.empty(shape, dtype=dtype, device=self.device)
            if self.ranks.first:
                sent.copy_(whole[name])
            parts[name] = self.held.cut(name, self.ranks.send(sent))
        return parts

    def state(self) -> tuple[dict[str, int], dict[str, Parts]]:
        optimizer, stepped = self.held.adamw()
        count = int(optimizer.state[stepped[0]]["step"])
        moments = {kind: {name: self.held.moment(name, kind) for name in self.parameters} for kind in MOMENTS}
        return dict.fromkeys(self.parameters, count), {WEIGHTS: self.weights(), **moments}

    def begin_from(self, steps: dict[str, int]) -> None:
        optimizer, stepped = self.held.adamw()
        for tensor in stepped:
            state = {"step": torch.tensor(float(max(steps.values())), device=tensor.device)}
            optimizer.state[tensor] = state | {kind: torch.zeros_like(tensor) for kind in MOMENTS}

    @torch.no_grad()
    def put_state(self, kind: str, parts: Parts) -> None:
        if kind == WEIGHTS:
            self.held.write(parts)
            return
        for name, part in parts.items():
            self.held.moment(name, kind).copy_(part)

    @torch.no_grad()
    def logits(self, example: Example) -> Tensor:
        self.engine.eval()
        logits = self.objective.logits(collate([example], len(example.answer), self.device))
        self.engine.train()
        return logits

    def snapshot(self) -> LanguageModel:
        """A whole copy on every device. Raises UserError where there is no room even for one whole model."""
        if self.parent.partitioned:
            raise UserError(
                "this strategy keeps a frozen copy of the model on every device, and the whole model does not fit on "
                "one: take devices with more memory, a smaller model or another strategy"
            )
        teacher = private.clothe(self.parent.skeleton, self.model, self.device, self.dtype)
        return LanguageModel(teacher, autocast=self.autocast)

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int | None = None) -> list[str]:
        with self.answering() as answerer:
            return answerer.generate(prompts, tokens)

    def sample(self, prompts: Sequence[Sequence[int]], tokens: int, top_k: int, seed: int) -> list[list[int]]:
        with self.answering() as answerer:
            return answerer.sample(prompts, tokens, top_k, seed)

    @contextmanager
    def answering(self) -> Iterator[Answerer]:
        """In the middle of a round."""
        assert self.answerer is not None
        self.engine.eval()
        with self.objective.precision():
            yield self.answerer
        self.engine.train()

    def encode(self, text: str) -> list[int]:
        assert self.answerer is not None
        return self.answerer.encode(text)

    @torch.no_grad()
    def examine(self, example: Example) -> tuple[float, float | None]:
        """The loss alone; every rank goes through all of the example."""
        self.engine.eval()
        loss: Tensor = self.engine(collate([example], len(example.answer), self.device))
        self.engine.train()
        return loss.item(), None

    def step(self) -> float:
        if isinstance(self.held, private.Whole):  # where DeepSpeed clips, but does not tell the norm
            norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.clip_norm)
            self.engine.step()
            return norm.item()
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def close(self) -> None:
        private.close(self.engine)
        del self.engine, self.objective, self.held, self.parameters
        cast(trainable(self.model).values(), self.dtype)
        self.parent.settle(self.model)
