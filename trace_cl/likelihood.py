"""How well a model foresees texts: the mean cross-entropy of their tokens."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from trace_cl.data.batches import answer_tokens, collate, micro_batches, shares
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
