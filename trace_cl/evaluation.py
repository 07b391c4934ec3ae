"""Evaluation: greedy answers, batched, and their scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from trace_cl.config import look_up_metric
from trace_cl.data.batches import within_budget
from trace_cl.errors import UserError
from trace_cl.metrics import VARIANTS, score_answers, score_corpus
from trace_cl.records.predictions import Prediction
from trace_cl.training.model import is_spread
from trace_cl.training.ranks import Ranks


class Kept(Protocol):
    """Answers that an interrupted start of this run has put by, batch by batch: generated ids, a row a prompt."""

    def get(self, key: str) -> list[list[int]] | None: ...

    def put(self, key: str, rows: list[list[int]]) -> None: ...


@dataclass(frozen=True)
class Generator:
    """What answers prompts: the model and how it is asked. `answer_tokens` is how long an answer can matter.

    Each of the `ranks` answers prompts of its own; while the model's weights are spread over them, all in step.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    answer_tokens: int
    tokens_per_batch: int
    ranks: Ranks
    kept: Kept | None = None

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int | None = None) -> list[str]:
        """Greedy answers, in the order of `prompts`."""
        length = self.answer_tokens if tokens is None else tokens
        in_step_with = self.ranks if is_spread(self.model) else None
        return generate(self.model, self.tokenizer, prompts, length, self.tokens_per_batch, in_step_with, self.kept)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    answer_tokens: int,
    tokens_per_batch: int,
    in_step_with: Ranks | None = None,
    kept: Kept | None = None,
) -> list[str]:
    """Greedy answers of at most `answer_tokens` tokens, in the order of `prompts`.

    Prompts of like length are answered together, as many as `tokens_per_batch` allows, the longest first. Where the
    weights are spread over ranks (`in_step_with`), each answers prompts of its own, and all go on until the last is
    done.
    """
    ends = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    config = GenerationConfig(
        max_new_tokens=answer_tokens, do_sample=False, eos_token_id=sorted(ends), pad_token_id=tokenizer.eos_token_id
    )
    answers = [""] * len(prompts)
    every = within_budget([len(prompt) + answer_tokens for prompt in prompts], tokens_per_batch)
    groups = []
    for group in every:
        key = sha256(repr((answer_tokens, [prompts[i] for i in group])).encode()).hexdigest()
        rows = kept.get(key) if kept else None
        if rows is None:
            groups.append(group)
        else:
            for index, ids_of_row in zip(group, rows, strict=True):
                answers[index] = str(tokenizer.decode(ids_of_row, skip_special_tokens=True))
    if in_step_with is not None:
        most = max(count for [count] in in_step_with.gather([len(groups)]))
        groups += [[]] * (most - len(groups))
    for group in groups:
        width = max((len(prompts[index]) for index in group), default=1)
        ids = torch.full((max(1, len(group)), width), tokenizer.eos_token_id)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(group):
            # On the left, because generation goes on from the last column.
            ids[row, width - len(prompts[index]) :] = torch.tensor(prompts[index])
            mask[row, width - len(prompts[index]) :] = 1
        output = model.generate(  # type: ignore[operator]  # the base class does not declare it
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            synced_gpus=in_step_with is not None,
        )
        for index, generated in zip(group, output[: len(group), width:], strict=True):
            answers[index] = str(tokenizer.decode(generated, skip_special_tokens=True))
        if kept and group:
            key = sha256(repr((answer_tokens, [prompts[i] for i in group])).encode()).hexdigest()
            kept.put(key, output[: len(group), width:].tolist())
    return answers


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
