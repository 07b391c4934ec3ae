"""Examples as token ids, and how they are grouped: global batches decide the result, micro-batches only the speed."""

from collections.abc import Iterable, Iterator, Sequence
from random import Random

import torch
from transformers import PreTrainedTokenizerBase

from trace_cl.strategies.base import Batch, Example


class Encoder:
    """Encodes prompts and answers apart, so that no token straddles the boundary, and cuts the left of long ones.

    An example has at most `total_tokens` tokens, prompt and answer together, a prompt to be answered `prompt_tokens`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, total_tokens: int, prompt_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.total_tokens = total_tokens
        self.prompt_tokens = prompt_tokens
        starts = tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
        self.start = [tokenizer.bos_token_id] if starts else []

    def prompt(self, text: str) -> list[int]:
        """The prompt's last `prompt_tokens` ids; where the model knows a start token it stays at the front."""
        return self._prompt(text, self.prompt_tokens)

    def example(self, prompt: str, answer: str) -> Example:
        """Prompt, answer and end. The prompt makes room for the answer; one too long by itself keeps its end, and one
        token before it to follow on."""
        ids = [*self._ids(answer), self.tokenizer.eos_token_id][1 - self.total_tokens :]
        return Example(self._prompt(prompt, self.total_tokens - len(ids)), ids)

    def _prompt(self, text: str, tokens: int) -> list[int]:
        ids = self._ids(text)
        room = tokens - len(self.start)
        return [*self.start, *ids[max(0, len(ids) - room) :]]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids


def global_batches(examples: Sequence[Example], size: int, seed: str) -> Iterator[list[Example]]:
    """One epoch: every example once, in an order drawn from `seed`, `size` at a time (the last may be fewer)."""
    order = list(range(len(examples)))
    Random(seed).shuffle(order)
    for start in range(0, len(order), size):
        yield [examples[index] for index in order[start : start + size]]


def within_budget(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices grouped longest with longest so that a padded group holds at most `budget` tokens (but at least one)."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


AT_ONCE = 2048
"""Tokens at most of a forward pass that keeps nothing: more would fit, and are no faster; on a CPU they are slower."""

DRAFT = 16
"""Tokens at most that are read on trial behind a text that is being answered."""

PASS = 512
"""What one more pass through the model costs, in tokens, roughly: kernels are started, gradients added up."""


def fewest_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices grouped longest with longest, a padded group within `budget` (or of one): of all such groupings the one
    that has the fewest tokens to compute, padding and PASS for each group among them."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    cheapest = [(0, 0)]  # of the first n: tokens, and where the last group begins
    for end in range(1, len(order) + 1):
        ways = []
        for start in reversed(range(end)):
            padded = (end - start) * lengths[order[start]]
            if padded > budget and end - start > 1:
                break
            ways.append((cheapest[start][0] + padded + PASS, start))
        cheapest.append(min(ways))
    groups: list[list[int]] = []
    while order:
        groups.insert(0, order[cheapest[len(order)][1] :])
        order = order[: cheapest[len(order)][1]]
    return groups


def shares(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Indices dealt out to the ranks, the longest first, each to the rank that has the fewest tokens so far."""
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        rank = loads.index(min(loads))
        dealt[rank].append(index)
        loads[rank] += lengths[index]
    return dealt


def micro_batches(batch: Sequence[Example], budget: int) -> list[list[Example]]:
    """A global batch cut under a token budget, so that little of it is padding."""
    return [[batch[index] for index in group] for group in fewest_tokens([len(e) for e in batch], budget)]


def answer_tokens(examples: Iterable[Example]) -> int:
    """How many tokens the loss is a mean over."""
    return sum(len(example.answer) for example in examples)


def collate(examples: Sequence[Example], total: int, device: torch.device | str = "cpu") -> Batch:
    """The examples as one micro-batch of a step with `total` answer tokens.

    Padding on the right needs no attention mask: under causal attention no real token sees what comes after it. Of no
    examples it makes one position that no answer follows: a loss of zero, for a rank that must keep in step with the
    others.
    """
    length = max((len(example) - 1 for example in examples), default=1)
    input_ids = torch.zeros(max(1, len(examples)), length, dtype=torch.long)
    positions: list[int] = []
    for row, example in enumerate(examples):
        tokens = torch.tensor([*example.prompt, *example.answer])
        input_ids[row, : len(tokens) - 1] = tokens[:-1]
        first = row * length + len(example.prompt) - 1
        positions.extend(range(first, first + len(example.answer)))
    targets = [token for example in examples for token in example.answer]
    return Batch(
        input_ids=input_ids.to(device),
        positions=torch.tensor(positions, dtype=torch.long, device=device),
        targets=torch.tensor(targets, dtype=torch.long, device=device),
        total=total,
        examples=examples,
    )
