"""How well a model foresees texts: the mean cross-entropy of their tokens, and whether it would write them itself."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from statistics import mean

import torch
from transformers import PreTrainedModel

from trace_cl.data.batches import AT_ONCE, answer_tokens, collate, shares, within_budget
from trace_cl.evaluation import Generator
from trace_cl.strategies.base import Adaptable, Answerer, Example
from trace_cl.training.loss import LanguageModel
from trace_cl.training.ranks import Ranks
from trace_cl.training.room import fitting


def micro_batches(examples: Sequence[Example], tokens_per_batch: int, ranks: Ranks) -> list[list[int]]:
    """The indices of this rank's share of the examples, `tokens_per_batch` tokens at a time or fewer, and then none as
    often as it takes for every rank to go through as many: where the weights are spread over the ranks, these bring
    them together in step."""
    mine = shares([len(example) for example in examples], ranks.size)[ranks.rank]
    groups = within_budget([len(examples[index]) for index in mine], min(tokens_per_batch, AT_ONCE))
    most = max(count for [count] in ranks.gather([len(groups)]))
    return [[mine[place] for place in group] for group in groups] + [[]] * (most - len(groups))


@torch.no_grad()
def mean_loss(model: PreTrainedModel, examples: Sequence[Example], tokens_per_batch: int, ranks: Ranks) -> float | None:
    """The mean cross-entropy over all answer tokens of the examples, in nats, the same on every rank; None where that
    is no number. Raises UserError where memory gives out."""
    total, objective = answer_tokens(examples), LanguageModel(model)
    loss = torch.zeros((), dtype=torch.float64, device=model.device)
    for indices in micro_batches(examples, tokens_per_batch, ranks):
        batch = collate([examples[index] for index in indices], total, model.device)
        with fitting(batch, model):
            loss += objective(batch)
    found = ranks.sum(loss).item()
    return found if math.isfinite(found) else None


@torch.no_grad()
def written(model: PreTrainedModel, examples: Sequence[Example], tokens_per_batch: int, ranks: Ranks) -> list[bool]:
    """Of each example whether greedy decoding of its prompt begins with its answer, the same on every rank.

    It does where every token of the answer is the likeliest after those before it, so that one forward pass tells.
    Raises UserError where memory gives out.
    """
    objective, found = LanguageModel(model), dict[int, bool]()
    for indices in micro_batches(examples, tokens_per_batch, ranks):
        batch = collate([examples[index] for index in indices], 1, model.device)
        with fitting(batch, model):
            right = objective.logits(batch).argmax(-1) == batch.targets
        answers = right.split([len(examples[index].answer) for index in indices])
        found |= {index: bool(answer.all()) for index, answer in zip(indices, answers, strict=True)}
    by_index = dict(chain(*ranks.gather(list(found.items()))))
    return [by_index[index] for index in range(len(examples))]


def share_written(
    model: PreTrainedModel, exercises: Mapping[str, Sequence[Example]], tokens_per_batch: int, ranks: Ranks
) -> dict[str, float]:
    """By name how many of its exercises are `written`, of a hundred; all in one pass."""
    names = [name for name, several in exercises.items() for _ in several]
    done: dict[str, list[bool]] = {name: [] for name in exercises}
    for name, right in zip(names, written(model, [*chain(*exercises.values())], tokens_per_batch, ranks), strict=True):
        done[name].append(right)
    return {name: 100 * mean(right) for name, right in done.items()}


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
