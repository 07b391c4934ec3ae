"""How well a model foresees texts: the mean cross-entropy of their tokens, and whether it would write them itself."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from transformers import PreTrainedModel

from trace_cl.data.batches import answer_tokens, collate, micro_batches, shares, within_budget
from trace_cl.evaluation import Generator
from trace_cl.strategies.base import Adaptable, Answerer, Example
from trace_cl.training.loss import LanguageModel
from trace_cl.training.ranks import Ranks
from trace_cl.training.room import fitting


@torch.no_grad()
def mean_loss(model: PreTrainedModel, examples: Sequence[Example], tokens_per_batch: int, ranks: Ranks) -> float | None:
    """The mean cross-entropy over all answer tokens of the examples, in nats, the same on every rank; None where that
    is no number.

    Each rank goes through its share, `tokens_per_batch` tokens at a time, and as often as every other: where the
    weights are spread over the ranks, these bring them together in step. Raises UserError where memory gives out.
    """
    mine = [examples[index] for index in shares([len(example) for example in examples], ranks.size)[ranks.rank]]
    batches = micro_batches(mine, tokens_per_batch)
    most = max(count for [count] in ranks.gather([len(batches)]))
    total, objective = answer_tokens(examples), LanguageModel(model)
    loss = torch.zeros((), dtype=torch.float64, device=model.device)
    for micro_batch in [*batches, *[[]] * (most - len(batches))]:
        batch = collate(micro_batch, total, model.device)
        with fitting(batch, model):
            loss += objective(batch)
    mean = ranks.sum(loss).item()
    return mean if math.isfinite(mean) else None


@torch.no_grad()
def written(model: PreTrainedModel, examples: Sequence[Example], tokens_per_batch: int, ranks: Ranks) -> list[bool]:
    """Of each example whether greedy decoding of its prompt begins with its answer, the same on every rank.

    It does where every token of the answer is the likeliest after those before it, so that one forward pass tells.
    Batched, and raising, as `mean_loss`.
    """
    mine = shares([len(example) for example in examples], ranks.size)[ranks.rank]
    groups = within_budget([len(examples[index]) for index in mine], tokens_per_batch)
    most = max(count for [count] in ranks.gather([len(groups)]))
    objective, found = LanguageModel(model), list[tuple[int, bool]]()
    for group in [*groups, *[[]] * (most - len(groups))]:
        batch = collate([examples[mine[place]] for place in group], 1, model.device)
        with fitting(batch, model):
            right = objective.logits(batch).argmax(-1) == batch.targets
        answers = right.split([len(example.answer) for example in batch.examples])
        found += [(mine[place], bool(answer.all())) for place, answer in zip(group, answers, strict=True)]
    by_index = dict(chain(*ranks.gather(found)))
    return [by_index[index] for index in range(len(examples))]


Ask = Callable[[Sequence[list[int]], Adaptable], object]
"""Has prompts answered, as a strategy does it, by what it is lent."""


def reference_loss(
    ask: Ask, prompts: Sequence[list[int]], references: Sequence[str], answerer: Generator
) -> float | None:
    """The mean loss of the references as answers to what is really asked for these prompts: of each the tokens up to
    its end, or as many as an answer may have. None where that is no number. Raises Unforeseen.

    Every rank asks for all of them.
    """
    end = answerer.tokenizer.eos_token_id
    answers = [[*answerer.encode(text), end][: answerer.answer_tokens] for text in references]
    forced = Forced(answerer, prompts, answers)
    ask(prompts, forced)
    if len(forced.losses) != 1:
        raise Unforeseen
    return forced.losses[0]


def ends_in(asked: Sequence[int], prompt: Sequence[int]) -> bool:
    """Whether what is asked is the prompt behind whatever stands before it, or between its start token and the rest."""
    text = list(prompt[1:])
    return list(asked[len(asked) - len(text) :]) == text


class Unforeseen(Exception):
    """The references are no answers to what a strategy asks: it does not ask each prompt once, whatever it puts before
    it, of the model as it is then."""


@dataclass
class Forced:
    """What a strategy may ask for answers, with the answers (token ids) given: instead of giving any it notes their
    mean loss. So whatever the strategy puts before a prompt, or does to the model meanwhile, counts."""

    answerer: Generator
    prompts: Sequence[list[int]]
    answers: Sequence[list[int]]
    losses: list[float | None] = field(default_factory=list)

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int | None = None) -> list[str]:
        if len(prompts) != len(self.prompts) or not all(map(ends_in, prompts, self.prompts)):
            raise Unforeseen
        examples = [Example(list(prompt), answer) for prompt, answer in zip(prompts, self.answers, strict=True)]
        by = self.answerer
        self.losses.append(mean_loss(by.model, examples, by.learning_tokens, by.ranks))
        return [""] * len(prompts)

    def sample(self, prompts: Sequence[Sequence[int]], tokens: int, top_k: int, seed: int) -> list[list[int]]:
        raise Unforeseen

    def adapted(self, examples: Sequence[Example], steps: int, rate: float, pull: float) -> Answerer:
        raise Unforeseen

    def encode(self, text: str) -> list[int]:
        return self.answerer.encode(text)
