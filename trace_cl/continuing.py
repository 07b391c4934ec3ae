"""What a model says to a batch of prompts, by greedy search; a row leaves the batch when it has ended.

`generate` of transformers goes on until the last row of its batch has ended, and copies all keys and values at every
token. Here it is stopped whenever half of its rows have ended, and goes on with the others; keys and values lie in room
that is taken once; and a beginning that all prompts share goes through the model once. The answers stay those of
`generate`.
"""

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

SHARED = 8
"""Tokens of a beginning that are worth a call of their own."""

Settled = Callable[[list[int]], bool]
"""Whether an answer that begins with these ids needs no others."""


def can_leave(model: PreTrainedModel) -> bool:
    """Whether rows can leave a batch of this model's: its keys and values are those of the ids it has read, and can be
    told apart by row. A prefix of keys is no id, and some models keep a state of another kind."""
    prefixed = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
    return not prefixed and all(type(layer) in (Roomy, DynamicSlidingWindowLayer) for layer in _cache(model, 1).layers)


def answer(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], config: GenerationConfig, settled: Settled | None
) -> list[list[int]]:
    """The ids that follow each prompt of a model whose rows can leave: until an end token or until they are `settled`,
    `config.max_new_tokens` at most. Behind the end of an answer others may stand."""
    width = max(map(len, prompts))
    limit = width + int(config.max_new_tokens)
    cache = _cache(model, limit)
    ids, mask = side_by_side(prompts, int(config.pad_token_id), model.device, _read_beginning(model, prompts, cache))
    rows = list(range(len(prompts)))
    answers: list[list[int]] = [[] for _ in prompts]
    while rows:
        ends = Ending(width, len(rows), config, settled, half=True)
        config.max_new_tokens = limit - ids.shape[1]
        ids = generate(model, ids, mask, config, ends, past_key_values=cache)
        for row, said in zip(rows, ids[:, width:].tolist(), strict=True):
            answers[row] = said
        if ids.shape[1] == limit:
            break
        stay = torch.tensor([place for place, end in enumerate(ends.rows) if not end], dtype=torch.long)
        rows, stay = [rows[place] for place in stay], stay.to(ids.device)
        cache.batch_select_indices(stay)
        ids = ids[stay]
        mask = torch.cat([mask[stay], mask.new_ones(len(stay), ids.shape[1] - mask.shape[1])], dim=1)
    return answers


def generate(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    config: GenerationConfig,
    ends: "Ending",
    draws: LogitsProcessor | None = None,
    **more: Any,
) -> Tensor:
    """One call of the model's own: the ids, and what follows them."""
    output: Tensor = model.generate(  # type: ignore[operator]  # the base class does not declare it
        input_ids=ids,
        attention_mask=mask,
        generation_config=config,
        stopping_criteria=StoppingCriteriaList([ends]),
        logits_processor=LogitsProcessorList([] if draws is None else [draws]),
        **more,
    )
    return output


def side_by_side(
    prompts: Sequence[Sequence[int]], pad: int, device: torch.device, shared: int = 0
) -> tuple[Tensor, Tensor]:
    """The prompts as rows, ids and mask, filled up after what they share: generation goes on from the last column."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        places = [*range(shared), *range(width - len(prompt) + shared, width)]
        ids[row, places] = torch.tensor(list(prompt))
        mask[row, places] = 1
    return ids.to(device), mask.to(device)


class Ending(StoppingCriteria):
    """Ends each row after an end token, or when it is `settled`; with `half` the whole call when half of them have
    ended. `rows` says which have."""

    def __init__(self, width: int, rows: int, config: GenerationConfig, settled: Settled | None, half: bool) -> None:
        self.width, self.settled, self.half = width, settled, half
        self.ends = {*(config.eos_token_id or ())}
        self.rows = [False] * rows

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        said = input_ids[:, -1:].tolist() if self.settled is None else input_ids[:, self.width :].tolist()
        for row, ids in enumerate(said):
            if not self.rows[row]:
                self.rows[row] = ids[-1] in self.ends or (self.settled is not None and self.settled(ids))
        enough = self.half and 2 * sum(self.rows) >= len(self.rows)
        return torch.tensor([enough or end for end in self.rows], device=input_ids.device)


class Roomy(DynamicLayer):
    """Keys and values of a layer (rows × heads × tokens × size) in room for as many tokens as there can be, so that a
    token more is written and nothing copied."""

    def __init__(self, tokens: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tokens = tokens
        self.room: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before, more = self.get_seq_length(), (key_states, value_states)
        after = before + key_states.shape[-2]
        if not self.room:
            self.room = [given.new_empty(*given.shape[:-2], self.tokens, given.shape[-1]) for given in more]
            if before:
                self._write(0, before, (self.keys, self.values))
        self._write(before, after, more)
        self.keys, self.values = (room[..., :after, :] for room in self.room)
        return self.keys, self.values

    def _write(self, first: int, last: int, what: Sequence[Any]) -> None:
        for room, given in zip(self.room, what, strict=True):
            room[..., first:last, :] = given

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.room = []

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.room = []


def _cache(model: PreTrainedModel, tokens: int) -> DynamicCache:
    """An empty one for this model; of the layers that see all tokens."""
    cache = DynamicCache(config=model.config)
    cache.layers = [Roomy(tokens) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _read_beginning(model: PreTrainedModel, prompts: Sequence[Sequence[int]], cache: DynamicCache) -> int:
    """Put the beginning that all prompts share, a token less than the shortest at most, through the model into the
    cache; gives its length. Where a layer sees a window of columns, what fills the rows up would be part of it: 0."""
    first, last = min(map(list, prompts)), max(map(list, prompts))  # as words are ordered: all others lie between
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    shared = min(sum(1 for _ in same), min(map(len, prompts)) - 1)
    if len(prompts) == 1 or shared < SHARED or not all(isinstance(layer, Roomy) for layer in cache.layers):
        return 0
    with torch.inference_mode():
        ids = torch.tensor([list(prompts[0][:shared])], device=model.device)
        model.get_decoder()(input_ids=ids, past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(prompts))
    return shared
