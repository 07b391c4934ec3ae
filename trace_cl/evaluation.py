"""Evaluation: greedy answers, batched, and their scores."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from itertools import chain, count
from typing import Any, Protocol

import torch
from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

from trace_cl import metrics
from trace_cl.config import look_up_metric
from trace_cl.data.batches import shares, within_budget
from trace_cl.decoding import Decoder
from trace_cl.errors import UserError
from trace_cl.lockstep import together
from trace_cl.metrics import VARIANTS, Settled, score_answers, score_corpus
from trace_cl.records.predictions import Prediction
from trace_cl.speculative import Done, answer, can_leave
from trace_cl.strategies.base import Example
from trace_cl.strategies.streams import stream
from trace_cl.training.adaptation import Adaptation
from trace_cl.training.model import is_spread
from trace_cl.training.ranks import Ranks
from trace_cl.training.room import gave_out

Guess = Callable[[Sequence[int]], Sequence[int]]
"""What may be the answer to a prompt, in ids. A wrong guess costs time and nothing else."""


class Kept(Protocol):
    """Answers of a scoring that was interrupted, as ids, a list a prompt: what it finds there is not generated again.

    The model must be the one that gave them.
    """

    def get(self, key: str) -> list[list[int]] | None: ...

    def put(self, key: str, rows: list[list[int]]) -> None: ...


@dataclass(frozen=True)
class Generator:
    """What answers prompts: the model and how it is asked. `answer_tokens` is how long an answer may be; it ends sooner
    where it is `settled`: where no continuation can change its score.

    Each of the `ranks` answers prompts of its own; while the model's weights are spread over them, all in step. With an
    `adaptation` the model is adapted first, `learning_tokens` at once, and afterwards as it was.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    answer_tokens: int
    tokens_per_batch: int
    ranks: Ranks
    settled: Settled | None = None
    kept: Kept | None = None
    guess: Guess | None = None
    learning_tokens: int = 8192
    adaptation: Adaptation | None = None
    calls: Iterator[int] = field(default_factory=count, repr=False, compare=False)

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int | None = None) -> list[str]:
        """Greedy answers, in the order of `prompts`. With `tokens` they are whole texts of at most so many tokens, and
        end nowhere sooner."""
        number = next(self.calls)
        return generate(
            self.model,
            self.tokenizer,
            prompts,
            self.answer_tokens if tokens is None else tokens,
            self.tokens_per_batch,
            self.ranks if is_spread(self.model) else None,
            self.settled if tokens is None else None,
            None if self.kept is None else _KeptOfCall(self.kept, number),
            self.guess,
            nullcontext if self.adaptation is None else partial(self.adaptation.of, self.model),
        )

    def encode(self, text: str) -> list[int]:
        """A text's token ids, without a start or end token."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def adapted(self, examples: Sequence[Example], steps: int, rate: float, pull: float) -> "Generator":
        """One that answers with the model adapted to these examples (`Adaptation`), each time anew."""
        return replace(self, adaptation=Adaptation(examples, steps, rate, pull, self.learning_tokens))

    def sample(self, prompts: Sequence[Sequence[int]], tokens: int, top_k: int, seed: int) -> list[list[int]]:
        """Drawn continuations, in the order of `prompts`, which are the same on every rank: each draws its share."""
        dealt = shares([len(prompt) for prompt in prompts], self.ranks.size)
        mine = dealt[self.ranks.rank]
        drawn = sample(
            self.model,
            self.tokenizer,
            [prompts[i] for i in mine],
            [stream(seed, "sample", i) for i in mine],
            tokens,
            top_k,
            self.tokens_per_batch,
            self.ranks if is_spread(self.model) else None,
        )
        by_place = dict(zip(chain(*dealt), chain(*self.ranks.gather(drawn)), strict=True))
        return [by_place[i] for i in range(len(prompts))]


@dataclass(frozen=True)
class _KeptOfCall:
    """The answers of one call: a strategy may ask the same prompts twice, and change the model in between."""

    kept: Kept
    number: int

    def get(self, key: str) -> list[list[int]] | None:
        return self.kept.get(self._key(key))

    def put(self, key: str, rows: list[list[int]]) -> None:
        self.kept.put(self._key(key), rows)

    def _key(self, key: str) -> str:
        return sha256(f"{self.number} {key}".encode()).hexdigest()


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    answer_tokens: int,
    tokens_per_batch: int,
    in_step_with: Ranks | None = None,
    settled: Settled | None = None,
    kept: Kept | None = None,
    guess: Guess | None = None,
    prepared: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> list[str]:
    """Greedy answers of at most `answer_tokens` tokens, in the order of `prompts`.

    Prompts of like length are answered together, as many as `tokens_per_batch` allows, the longest first. Where the
    weights are spread over ranks (`in_step_with`), each answers prompts of its own, and all go on until the last is
    done. An answer whose text is `settled` ends there; those beside it in the batch go on. Equal prompts are answered
    once. Groups that `kept` knows are not generated again; the model is `prepared` for the others, if there are any.
    Where the answer begins as what is `guess`ed of the prompt, that takes no longer than reading it.
    """
    different = dict.fromkeys(map(tuple, prompts))
    if len(different) < len(prompts):
        settings = (answer_tokens, tokens_per_batch, in_step_with, settled, kept, guess, prepared)
        said = dict(zip(different, generate(model, tokenizer, list(different), *settings), strict=True))
        return [said[tuple(prompt)] for prompt in prompts]
    decoder = Decoder(tokenizer)
    ends = _end_tokens(model, tokenizer)
    answers = [""] * len(prompts)
    to_do: list[tuple[list[int], str]] = []
    for group in within_budget([len(prompt) + answer_tokens for prompt in prompts], tokens_per_batch):
        key = _key([prompts[index] for index in group], answer_tokens, settled is not None)
        if (rows := None if kept is None else kept.get(key)) is None:
            to_do.append((group, key))
            continue
        for index, row in zip(group, rows, strict=True):
            answers[index] = decoder.text(row)
    to_do += [([], "")] * _missing(len(to_do), in_step_with)

    def done(ids: list[int]) -> bool:
        return ids[-1] in ends or (settled is not None and settled(decoder.final(ids)))

    with prepared() if to_do else nullcontext():
        for group, key in to_do:
            asked = [prompts[index] for index in group]
            drafts = None if guess is None else [guess(prompt) for prompt in asked]
            rows = _continue(model, tokenizer, asked, answer_tokens, done, in_step_with, drafts)
            for index, row in zip(group, rows, strict=True):
                answers[index] = decoder.text(row)
            if kept is not None and group:
                kept.put(key, rows)
    return answers


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    tokens: int,
    top_k: int,
    tokens_per_batch: int,
    in_step_with: Ranks | None = None,
) -> list[list[int]]:
    """At most `tokens` ids that follow each prompt, the end token among them, each drawn from the `top_k` most likely
    by a stream of the prompt's own; batched as `generate` does it."""
    ends = _end_tokens(model, tokenizer)
    rows: list[list[int]] = [[] for _ in prompts]
    groups = within_budget([len(prompt) + tokens for prompt in prompts], tokens_per_batch)
    for group in [*groups, *[[]] * _missing(len(groups), in_step_with)]:
        draws = Draws([seeds[index] for index in group], top_k) if top_k > 1 else None
        asked = [prompts[index] for index in group]
        drawn = _continue(model, tokenizer, asked, tokens, lambda ids: ids[-1] in ends, in_step_with, draws=draws)
        for index, row in zip(group, drawn, strict=True):
            rows[index] = row
    return rows


def _missing(groups: int, in_step_with: Ranks | None) -> int:
    """How many groups another rank has more than this one, which all have to go through the model in step."""
    return 0 if in_step_with is None else max(number for [number] in in_step_with.gather([groups])) - groups


def _continue(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    done: Done,
    in_step_with: Ranks | None,
    guesses: Sequence[Sequence[int]] | None = None,
    draws: "Draws | None" = None,
) -> list[list[int]]:
    """What the model says to each prompt of one batch, until it is `done`. To none it says one token, to keep in
    step."""
    try:
        if prompts and in_step_with is None and can_leave(model):
            return answer(model, prompts, tokens, done, guesses, draws and draws.among)
        return together(model, prompts, tokens, done, tokenizer.eos_token_id, draws, in_step_with is not None)
    except (RuntimeError, MemoryError) as error:
        if gave_out(error):
            raise UserError(
                f"out of memory while {len(prompts)} prompts of up to {max(map(len, prompts), default=1)} tokens are "
                "answered: set evaluation.tokens_per_batch lower, and the same command goes on"
            ) from error
        raise


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokenizer's end-of-sequence token, and those that the model itself knows."""
    ends = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}


class Draws(LogitsProcessor):
    """Makes the likeliest token one drawn from each row's `top_k` likeliest, in proportion to their probabilities: the
    largest of their logits with Gumbel noise (Gumbel, 1954). A row's noise is of a stream of its own, so that neither
    the batch nor the device moves it."""

    def __init__(self, seeds: Sequence[int], top_k: int) -> None:
        self.streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.top_k = top_k

    def __call__(self, input_ids: torch.Tensor, scores: Any) -> Any:
        """Of all rows; one that is there to keep in step alone has a row and no stream."""
        likeliest, noised = self._noised(scores, range(len(self.streams)))
        return torch.full_like(scores, -torch.inf, dtype=torch.double).scatter(-1, likeliest, noised)

    def among(self, scores: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """What is drawn for these rows (R), of their logits (R × vocabulary)."""
        likeliest, noised = self._noised(scores, rows)
        return likeliest.take_along_dim(noised.argmax(dim=-1, keepdim=True), dim=-1)[:, 0]

    def _noised(self, scores: torch.Tensor, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        likeliest = scores.double().topk(min(self.top_k, scores.shape[-1]), dim=-1)
        noise = torch.zeros(likeliest.values.shape, dtype=torch.double)
        for own, row in zip(noise, rows, strict=False):
            own.copy_(-(-torch.rand(len(own), generator=self.streams[row], dtype=torch.double).log()).log())
        return likeliest.indices, likeliest.values + noise.to(scores.device)


def _key(prompts: Sequence[Sequence[int]], answer_tokens: int, settles: bool) -> str:
    """What a group's answers depend on, but for the model."""
    width = max(len(prompt) for prompt in prompts)
    return sha256(json.dumps([list(map(list, prompts)), answer_tokens, width, settles]).encode()).hexdigest()


def guessing(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Guess:
    """Of each prompt its answer, whatever a strategy puts before the prompt."""
    tail = max(1, min(map(len, prompts), default=1) - 1)  # without the start token, which then stands further in front
    known = {tuple(prompt[-tail:]): answer for prompt, answer in zip(prompts, answers, strict=True)}
    return lambda prompt: known.get(tuple(prompt[-tail:]), ())


def settled_by(metric: str, references: Sequence[str]) -> Settled | None:
    """When an answer to one of a task's prompts has its score, whatever follows; None where the metric does not say."""
    return metrics.settled_by(look_up_metric(metric), references)


def score(
    metric: str,
    indices: Sequence[int],
    predictions: Sequence[str],
    references: Sequence[str],
    prompts: Sequence[str],
) -> list[Prediction]:
    """Every prediction with its score by every variant of the metric. Raises UserError for a metric that gives more or
    fewer scores."""
    scorer = look_up_metric(metric)
    scores = {variant: score_answers(scorer, predictions, references, prompts, variant) for variant in VARIANTS}
    for given in scores.values():
        if len(given) != len(predictions):
            raise UserError(f"metric={metric} gives {len(given)} scores for {len(predictions)} predictions: mend it")
    return [
        Prediction(index, prediction, reference, {variant: scores[variant][row] for variant in VARIANTS})
        for row, (index, prediction, reference) in enumerate(zip(indices, predictions, references, strict=True))
    ]


def summarize(metric: str, predictions: Sequence[Prediction], prompts: Sequence[str]) -> dict[str, float]:
    """The figure of a task's predictions by every variant: S[t, i]. `prompts` are in the order of the predictions."""
    answers, references = [p.prediction for p in predictions], [p.reference for p in predictions]
    return {
        variant: score_corpus(
            look_up_metric(metric), answers, references, prompts, variant, [p.scores[variant] for p in predictions]
        )
        for variant in VARIANTS
    }
