"""What settings that are left at `auto` may come to, the fastest first.

On a GPU more tokens at once are at least as fast, until its products are large enough to keep it busy: with some
thousand rows they are, and a rank of eight has no more than 16,384 tokens of a step of the paper's. To compute layers
twice costs a third more: it is worth more than micro-batches of less than 4,096 tokens would save. Each token of an
answer waits for all weights to be read, however many rows it is written in: the more the better. On a CPU, whose caches
are small, micro-batches of some thousand tokens are as fast as larger ones.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

AUTO = "auto"
TOKENS, RECOMPUTED, ANSWERED = (
    "training.tokens_per_batch",
    "engine.gradient_checkpointing",
    "evaluation.tokens_per_batch",
)

Choice = dict[str, Any]

ON_GPU = ((False, (16384, 8192, 4096)), (True, (16384, 8192, 4096, 2048, 1024)))
ON_CPU = ((False, (8192, 4096, 2048, 1024)), (True, (8192, 4096, 2048, 1024)))
"""Whether layers are computed twice, and with how many tokens at once."""

UNKNOWN: Choice = {TOKENS: 8192, RECOMPUTED: True, ANSWERED: 32768}
"""What is planned with where nobody knows the device."""


def training(asked: Collection[str], on_gpu: bool, recomputable: bool) -> list[Choice]:
    """Of the settings that are `asked` for: how a step is cut."""
    pairs = [(twice, tokens) for twice, sizes in (ON_GPU if on_gpu else ON_CPU) for tokens in sizes]
    choices = [{RECOMPUTED: twice, TOKENS: tokens} for twice, tokens in pairs if recomputable or not twice]
    return _restricted(choices, asked)


def scoring(asked: Collection[str], on_gpu: bool) -> list[Choice]:
    """How many prompts are answered at once."""
    most = 131072 if on_gpu else 32768
    return _restricted([{ANSWERED: most >> halved} for halved in range(8) if most >> halved >= 2048], asked)


def kept(before: Mapping[str, Any], choices: Sequence[Choice]) -> list[Choice]:
    """These choices, but first of all what an earlier start of the run chose."""
    keys = choices[0].keys() if choices else ()
    chosen = {key: before[key] for key in keys if isinstance(before.get(key), int)}
    return [*([chosen] if chosen and len(chosen) == len(keys) else []), *choices]


def _restricted(choices: Sequence[Choice], asked: Collection[str]) -> list[Choice]:
    parts = [{key: value for key, value in choice.items() if key in asked} for choice in choices]
    return [part for number, part in enumerate(parts) if part and part not in parts[:number]]
