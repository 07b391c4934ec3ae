"""What a model says to a batch of prompts by transformers' own `generate`, from which no row leaves: for models that
keep another state than keys and values, and for weights that are spread over ranks, which have to go on in step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from trace_cl.speculative import Done


def together(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    done: Done,
    pad: int,
    draws: LogitsProcessor | None,
    in_step: bool,
) -> list[list[int]]:
    """The ids that follow each prompt, until `done`, `tokens` at most: the likeliest, or those that `draws` makes so.
    To none it says one token, to keep in step."""
    ids, mask = _side_by_side(prompts or [[pad]], pad, model.device)
    config = GenerationConfig(max_new_tokens=tokens if prompts else 1, do_sample=False, pad_token_id=pad)
    ending = Ending(ids.shape[1], len(ids), done)
    with _nothing_inherited(model):
        output = model.generate(  # type: ignore[operator]  # the base class does not declare it
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([ending]),
            logits_processor=LogitsProcessorList([] if draws is None else [draws]),
            synced_gpus=in_step,
        )
    said = output[: len(prompts), ids.shape[1] :].tolist()
    return [row[:length] for row, length in zip(said, ending.lengths, strict=False)]


def _side_by_side(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The prompts as rows, ids and mask, filled up on the left: generation goes on from the last column."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


class Ending(StoppingCriteria):
    """Ends each row where it is done; `lengths` has how much each has said."""

    def __init__(self, width: int, rows: int, done: Done) -> None:
        self.width, self.done = width, done
        self.ended, self.lengths = [False] * rows, [0] * rows

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        for row, ids in enumerate(input_ids[:, self.width :].tolist()):
            if not self.ended[row]:
                self.ended[row], self.lengths[row] = self.done(ids), len(ids)
        return torch.tensor(self.ended, device=input_ids.device)


@contextmanager
def _nothing_inherited(model: PreTrainedModel) -> Iterator[None]:
    """Lay the model's own generation configuration aside: `generate` takes from it whatever it is not told, penalties
    and forbidden tokens too. It comes back, because it is the hub's and is saved with the model."""
    # An adapter hands generation on to the model it stands on.
    owner: Any = getattr(model, "get_base_model", lambda: model)()
    own, owner.generation_config = owner.generation_config, GenerationConfig()
    try:
        yield
    finally:
        owner.generation_config = own
