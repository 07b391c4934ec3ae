"""The engine on a single device, in plain PyTorch."""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trace_cl.data.batches import answer_tokens, collate, micro_batches
from trace_cl.strategies.base import Answerer, Batch, Example, Parts
from trace_cl.training.engine import MOMENTS, WEIGHTS, Optimization, Tally, adamw, cast, checkpoint_gradients, trainable
from trace_cl.training.layerwise import inner_products
from trace_cl.training.loss import LanguageModel, Loss, plain
from trace_cl.training.room import Budget, DoesNotFit, fitting


@dataclass
class TorchEngine:
    """One device holds everything."""

    optimization: Optimization
    device: torch.device
    tokens_per_batch: int
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        self.budget = Budget(self.tokens_per_batch)

    def to_devices(self, model: PreTrainedModel) -> None:
        model.to(self.device)  # type: ignore[arg-type]  # the library's wrapper hides the method's own signature
        checkpoint_gradients(model, self.gradient_checkpointing)

    def train(self, model: PreTrainedModel, loss: Loss = plain, answerer: Answerer | None = None) -> "TorchLearner":
        learner = TorchLearner(model, self.optimization, self.tokens_per_batch, loss, answerer)
        learner.budget = self.budget  # a run's, not a round's
        return learner

    def weights(self, model: PreTrainedModel) -> None:
        """None: the model's own `save_pretrained` finds them where they are."""


class TorchLearner:
    """Trains one round.

    What learns is held in fp32 while it learns, whatever the model's dtype: at a learning rate of 1e-5 most of AdamW's
    updates are smaller than bf16 can tell apart. The frozen half stays as it is, and `close` brings the rest back.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        optimization: Optimization,
        tokens_per_batch: int,
        loss: Loss = plain,
        answerer: Answerer | None = None,
    ) -> None:
        self.model = model
        self.answerer = answerer
        self.clip_norm = optimization.clip_norm
        self.budget = Budget(tokens_per_batch)
        self.noted: dict[str, float] = {}
        self.largest = 0  # tokens of the last backward's largest micro-batch
        self.dtype = model.dtype
        self.objective = LanguageModel(model, loss, autocast=self.dtype == torch.bfloat16)
        self.parameters = trainable(model)
        self.touched = dict(self.parameters)
        cast(self.parameters.values(), self.precise)
        self.optimizer: torch.optim.Optimizer = adamw(self.parameters.values(), optimization)
        model.train()

    @property
    def precise(self) -> torch.dtype:
        """The dtype in which weights learn."""
        return torch.float32 if self.dtype == torch.bfloat16 else self.dtype

    def change(self) -> None:
        before, self.parameters = self.parameters, trainable(self.model)
        self.touched |= self.parameters
        for name in before.keys() - self.parameters.keys():
            cast([before[name]], self.dtype)
            before[name].grad = None
            self.optimizer.state.pop(before[name], None)
        cast(self.parameters.values(), self.precise)
        self.optimizer.param_groups[0]["params"] = list(self.parameters.values())

    def backward(self, examples: Sequence[Example], weight: float = 1.0) -> float:
        """The micro-batches' sums are divided by the whole batch's token count, so how the batch is cut changes
        nothing: one that does not fit is cut smaller, once, and the whole batch begun again.

        Raises UserError where that was done before, or would change something. Gradients that an earlier backward left
        for this one to add to would be lost with its own: where there are some, nothing is begun again.
        """
        alone = all(parameter.grad is None for parameter in self.parameters.values())
        try:
            return self._accumulate(examples, weight)
        except DoesNotFit as error:
            if self.budget.halved or not (alone and error.divisible):
                raise
            too_large = error.shape
        # Only now is all that the failed pass held let go.
        self.optimizer.zero_grad(set_to_none=True)
        self.budget.halve(too_large)
        return self._accumulate(examples, weight)

    def _accumulate(self, examples: Sequence[Example], weight: float) -> float:
        tally, self.largest = Tally(self.model.device), 0
        for batch in self._batches(examples):
            self.largest = max(self.largest, batch.input_ids.numel())
            with fitting(batch, self.model):
                part = self.objective(batch)
                (part if weight == 1 else weight * part).backward()
            tally.add(part, batch)
        loss, self.noted = tally.read(tally.sums())
        return loss

    def _batches(self, examples: Sequence[Example]) -> Iterator[Batch]:
        total = answer_tokens(examples)
        for micro_batch in micro_batches(examples, self.budget.tokens):
            yield collate(micro_batch, total, self.model.device)

    def inner_products(self, batches: Sequence[Sequence[Example]]) -> Tensor:
        cut = [list(self._batches(examples)) for examples in batches]
        at_hand = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        # What the step itself had room for.
        keep = sum(batch.input_ids.numel() for each in cut for batch in each) <= self.largest
        return inner_products(self.objective, cut, self.parameters, at_hand, lambda name, gradient: gradient, keep)

    def take_gradients(self) -> Parts:
        taken = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in self.parameters.items()}
        self.optimizer.zero_grad(set_to_none=True)
        return taken

    def put_gradients(self, gradients: Parts) -> None:
        for name, parameter in self.parameters.items():
            parameter.grad = gradients[name]

    def sum_over_shards(self, table: Tensor) -> Tensor:
        """The table itself: there are no shards."""
        return table

    def weights(self) -> Parts:
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def set_weights(self, weights: Parts) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])

    def gather(self, parts: Parts) -> dict[str, Tensor]:
        return {name: part.detach().to("cpu", copy=True) for name, part in parts.items()}

    def scatter(self, whole: dict[str, Tensor]) -> Parts:
        return {name: whole[name].to(self.model.device) for name in self.touched if name in whole}

    def state(self) -> tuple[dict[str, int], dict[str, Parts]]:
        moved = {name: self.optimizer.state[p] for name, p in self.parameters.items() if p in self.optimizer.state}
        weights = {name: parameter.detach() for name, parameter in self.touched.items()}
        moments = {kind: {name: state[kind] for name, state in moved.items()} for kind in MOMENTS}
        return {name: int(state["step"]) for name, state in moved.items()}, {WEIGHTS: weights, **moments}

    def begin_from(self, steps: dict[str, int]) -> None:
        for name, count in steps.items():
            parameter = self.parameters[name]
            # As the fused AdamW makes it at a parameter's first step.
            state = {"step": torch.tensor(float(count), device=parameter.device)}
            self.optimizer.state[parameter] = state | {kind: torch.zeros_like(parameter) for kind in MOMENTS}

    @torch.no_grad()
    def put_state(self, kind: str, parts: Parts) -> None:
        for name, part in parts.items():
            (self.touched[name] if kind == WEIGHTS else self.optimizer.state[self.parameters[name]][kind]).copy_(part)

    @torch.no_grad()
    def logits(self, example: Example) -> Tensor:
        self.model.eval()
        logits = self.objective.logits(collate([example], len(example.answer), self.model.device))
        self.model.train()
        return logits

    def snapshot(self) -> LanguageModel:
        teacher = copy.deepcopy(self.model).requires_grad_(False).eval()
        cast(teacher.parameters(), self.dtype)
        return LanguageModel(teacher, autocast=self.dtype == torch.bfloat16)

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
        self.model.eval()
        with self.objective.precision():
            yield self.answerer
        self.model.train()

    def encode(self, text: str) -> list[int]:
        assert self.answerer is not None
        return self.answerer.encode(text)

    def step(self) -> float:
        """Without a finite norm nothing is stepped: it would be written into every weight."""
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.clip_norm).item()
        if math.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def examine(self, example: Example) -> tuple[float, float | None]:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.backward([example])
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters.values() if p.grad is not None])
        self.optimizer.zero_grad(set_to_none=True)
        return loss, norm.item()

    def close(self) -> None:
        cast(self.parameters.values(), self.dtype)
        self.model.eval()
