"""What a model says to a batch of prompts: by greedy search, or drawn.

`generate` of transformers copies all keys and values at every token, and goes on until the last row of its batch has
ended. Here keys and values are written once, at the column that is their token's position; rows that have ended leave;
and a beginning that all prompts share goes through the model once.

Nor does every token need a pass of its own. The model reads a draft behind what it goes on from, and what it would
have said after each of the draft's tokens comes of the same pass: as far as the draft foresaw it, that is the answer
(Leviathan et al., ICML 2023, arXiv 2211.17192). A draft is a guess, the reference for one, or else what followed the
last two tokens where they stood before (Saxena, prompt lookup decoding, 2023). It changes how long an answer takes, and
never what it is.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import chain, islice, pairwise, takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from trace_cl.data.batches import AT_ONCE, DRAFT, fewest_tokens
from trace_cl.strategies.base import Batch, Example, Observer
from trace_cl.training.loss import handing_on

SHARED = 8
"""Tokens of a beginning that are worth a call of their own."""

FEW = 8
"""Of so many rows one alone gets no longer draft than the others: all are as wide as the widest."""

Done = Callable[[list[int]], bool]
"""Whether an answer ends with these ids."""

Choose = Callable[[Tensor, Sequence[int]], Tensor]
"""The next token of each of some rows (R), from the logits (R × vocabulary) and the numbers of their prompts."""


def can_leave(model: PreTrainedModel) -> bool:
    """Whether rows can leave a batch of this model's: its keys and values are those of the ids it has read, apart by
    row, and it can be told where each stands. A prefix of keys is no id, some models keep a state of another kind, and
    some count positions by themselves."""
    config = model.config
    return (
        not getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
        and all(
            type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in DynamicCache(config=config).layers
        )
        and "position_ids" in signature(model.get_decoder().forward).parameters
        and not getattr(config, "alibi", False)
        and config._attn_implementation in ("sdpa", "eager")
    )


def answer(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    done: Done,
    guesses: Sequence[Sequence[int]] | None = None,
    choose: Choose | None = None,
) -> list[list[int]]:
    """The ids that follow each prompt of a model whose rows can leave, until `done`, `tokens` at most: the likeliest,
    or those that `choose` says, which has each of a row's logits once and in their order."""
    guesses = guesses or [()] * len(prompts)
    rows = [Row(number, *both, tokens) for number, both in enumerate(zip(prompts, guesses, strict=True))]
    every = rows = sorted(rows, key=lambda row: -len(row.next))
    reader = Reader(model, len(rows), max(row.longest for row in rows) + DRAFT)
    with torch.no_grad():
        reader.read_beginning(rows)
        foreseen = tokens
        for group in fewest_tokens([len(row.next) for row in rows], AT_ONCE):
            among = slice(group[0], group[-1] + 1)
            for row in rows[among]:
                row.draft = row.draft[: 1 + 2 * foreseen]  # where guesses are wrong, less and less is read of them
            _go_on(reader, rows, among, done, choose)
            foreseen = max(row.right for row in rows[among])
        while rows := reader.leave(rows):
            longest = sorted(len(row.draft) for row in rows)[-1 - len(rows) // FEW]
            for row in rows:
                row.draft = row.draft[:longest]
            _go_on(reader, rows, slice(0, len(rows)), done, choose)
    return [row.said for row in sorted(every, key=lambda row: row.number)]


def _go_on(reader: "Reader", every: Sequence["Row"], among: slice, done: Done, choose: Choose | None) -> None:
    """One pass: each row is as much further as its draft was right, and a token."""
    rows = every[among]
    logits = reader.read(rows, among)
    chosen = choose(logits, [row.number for row in rows]) if choose else logits.argmax(dim=-1)
    tokens = iter(chosen.tolist())
    for row in rows:
        row.take([*islice(tokens, 1 + len(row.draft))], done, drafts=choose is None)


class Row:
    """A prompt and what is `said` to it, together `ids`, of which the model has read `read`; next it reads the others
    and a draft of what it may say then. `text` has, before them, the guess: a draft is looked up in both."""

    def __init__(self, number: int, prompt: Sequence[int], guess: Sequence[int], tokens: int) -> None:
        self.number, self.text = number, [*guess, *prompt]
        self.begins, self.asked, self.longest = len(guess), len(prompt), len(prompt) + tokens
        self.read, self.right, self.ended = 0, 0, False
        self.draft = list(guess[: tokens - 1])
        pairs: Iterable[tuple[int, ...]] = pairwise(self.text[:-1])
        self.follows = {pair: place for place, pair in enumerate(pairs, start=2)}

    @property
    def ids(self) -> list[int]:
        return self.text[self.begins :]

    @property
    def said(self) -> list[int]:
        return self.ids[self.asked :]

    @property
    def next(self) -> list[int]:
        """What the model reads next."""
        return self.ids[self.read :] + self.draft

    def take(self, tokens: Sequence[int], done: Done, drafts: bool) -> None:
        """What the model says after what it was to go on from, and after each token of the draft: it counts as long as
        the draft was right. Looks up another draft, the longer the more was right."""
        self.right = 0
        for token, drafted in zip(tokens, [*self.draft, None], strict=True):
            self.follows[tuple(self.text[-2:])] = len(self.text)
            self.text.append(token)
            self.ended = len(self.ids) == self.longest or done(self.said)
            if self.ended or token != drafted:
                break
            self.right += 1
        self.read = len(self.ids) - 1
        self.draft = self._look_up(min(1 + 2 * self.right, DRAFT)) if drafts and not self.ended else []

    def _look_up(self, tokens: int) -> list[int]:
        """What followed the last two tokens where they stood before, and so on."""
        place = self.follows.get(tuple(self.text[-2:]))
        if place is None:
            return []
        text = list(self.text)
        for further in range(min(tokens, self.longest - len(self.ids) - 1)):
            text.append(text[place + further])
        return text[len(self.text) :]


class Reader:
    """A model and the keys and values of `rows` rows with room for `columns` tokens each, at the column that is a
    token's position: what stands in later columns than a row has tokens is none of it, and will be written over."""

    def __init__(self, model: PreTrainedModel, rows: int, columns: int) -> None:
        self.model = model
        self.observers = [module for module in model.modules() if isinstance(module, Observer)]
        self.cache = DynamicCache(config=model.config)
        self.windows = {getattr(layer, "sliding_window", None) for layer in self.cache.layers}
        self.place = Place(slice(0, rows), torch.zeros(rows, 1, dtype=torch.long))
        self.layers = [Room(rows, columns, self.place) for _ in self.cache.layers]
        self.cache.layers = list(self.layers)

    def read_beginning(self, rows: Sequence[Row]) -> None:
        """Read what all rows begin with, a token less than the shortest at most, for all of them at once. What observes
        a text wants to see all of it."""
        first, last = min(row.ids for row in rows), max(row.ids for row in rows)  # all others lie between
        same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
        shared = min(sum(1 for _ in same), min(len(row.ids) for row in rows) - 1)
        if len(rows) > 1 and shared >= SHARED and not self.observers:
            self.place.rows, self.place.columns = slice(0, len(rows)), torch.arange(shared)[None]
            ids = torch.tensor([rows[0].ids[:shared]], device=self.model.device)
            self.model.get_decoder()(input_ids=ids, past_key_values=self.cache, use_cache=True)
            for row in rows:
                row.read = shared

    def read(self, rows: Sequence[Row], among: slice) -> Tensor:
        """Logits (N × vocabulary) after the last of each row's ids and after each token of its draft; the rows stand at
        the places `among` all."""
        texts = [row.next for row in rows]
        width, device = max(map(len, texts)), self.model.device
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = torch.tensor(text)
        first = torch.tensor([[row.read] for row in rows])
        ends = torch.tensor([[row.read + len(text) - 1] for row, text in zip(rows, texts, strict=True)])
        columns = first + torch.arange(width)
        self.place.rows, self.place.columns = among, columns
        # What fills a row up stands where its last token does, so that it sees something, and no further than there is.
        places = columns.minimum(ends)
        wanted = [
            range(row * width + len(text) - len(rows[row].draft) - 1, row * width + len(text))
            for row, text in enumerate(texts)
        ]
        batch = Batch(
            input_ids=ids.to(device),
            positions=torch.tensor(list(chain(*wanted)), device=device),
            targets=torch.empty(0, dtype=torch.long),
            total=1,
            examples=[Example(row.ids, row.draft) for row in rows],
        )
        if not first.any():
            for observer in self.observers:
                observer.look_at(batch)
        with handing_on(self.model.get_decoder(), batch):
            logits: Tensor = self.model(
                input_ids=batch.input_ids,
                position_ids=places.to(device),
                attention_mask=self._seen(places, int(columns.max()) + 1) if first.any() else None,
                past_key_values=self.cache,
                use_cache=True,
            ).logits
        return logits.squeeze(0)

    def leave(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that have not ended, at the first places: where one has ended the last of all takes its place."""
        stay = [place for place, row in enumerate(rows) if not row.ended]
        left = [place for place in range(len(stay)) if rows[place].ended]
        moved = stay[len(stay) - len(left) :]
        for kept in chain(*(layer.kept for layer in self.layers)):
            if left:
                kept[left] = kept[moved]
        places = dict(zip(left, moved, strict=True))
        return [rows[places.get(place, place)] for place in range(len(stay))]

    def _seen(self, places: Tensor, columns: int) -> Any:
        """What each token of the rows sees (R × 1 × L × columns), to be added to attention's scores: the columns up to
        its own, or as many of them as a window shows; where layers differ in this, by their kind."""
        dtype, device = self.model.dtype, self.model.device
        behind = (places.to(device)[..., None] - torch.arange(columns, device=device))[:, None]

        def within(window: int | None) -> Tensor:
            unseen = (behind < 0) if window is None else (behind < 0) | (behind >= window)
            return torch.zeros_like(unseen, dtype=dtype).masked_fill_(unseen, torch.finfo(dtype).min)

        if len(self.windows) == 1:
            return within(*self.windows)
        return {"full_attention" if window is None else "sliding_attention": within(window) for window in self.windows}


@dataclass
class Place:
    """Where all layers write what comes next: these rows, each from the first of its columns (R × L)."""

    rows: slice
    columns: Tensor


class Room(DynamicLayer):
    """Keys and values of a layer (rows × heads × columns × size). What comes next is written at its `place`; one row,
    where there are more, for all of them."""

    def __init__(self, rows: int, columns: int, place: Place) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size, self.place = (rows, columns), place
        self.kept: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        rows, columns = self.size
        given = (key_states, value_states)
        self.kept = self.kept or [new.new_zeros(rows, new.shape[1], columns, new.shape[3]) for new in given]
        keys, values = (self._write(kept, new) for kept, new in zip(self.kept, given, strict=True))
        return keys, values

    def _write(self, kept: Tensor, new: Tensor) -> Tensor:
        columns = self.place.columns
        rows, end = kept[self.place.rows], int(columns.max()) + 1
        if (columns == columns[0]).all():
            rows[:, :, end - columns.shape[1] : end] = new
        else:
            places = torch.arange(len(rows), device=new.device)[:, None], columns.to(new.device)
            rows[places[0], :, places[1]] = new.transpose(1, 2)
        return rows[: len(new), :, :end]

    def get_seq_length(self) -> int:
        return int(self.place.columns.min())
