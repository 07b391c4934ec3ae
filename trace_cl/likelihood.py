"""How well a model foresees texts: the mean cross-entropy of their tokens, and whether it would write them itself."""

from collections.abc import Sequence
from itertools import chain

import torch
from transformers import PreTrainedModel

from trace_cl.data.batches import answer_tokens, collate, micro_batches, shares, within_budget
from trace_cl.strategies.base import Example
from trace_cl.training.loss import LanguageModel
from trace_cl.training.ranks import Ranks
from trace_cl.training.room import fitting


@torch.no_grad()
def mean_loss(model: PreTrainedModel, examples: Sequence[Example], tokens_per_batch: int, ranks: Ranks) -> float:
    """The mean cross-entropy over all answer tokens of the examples, in nats, the same on every rank.

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
    return ranks.sum(loss).item()


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
