"""What GEM's eighth round costs a step: python benchmarks/gem.py [--turns N] [--out FILE]

A step of SeqFT, of GEM with its memories' gradients stored, and streamed, on the same examples: one of each task of the
embedded benchmark, so that the batch's texts are as long as the memories', of which a step looks at one a past task.
Every step of GEM is made to project, which is the dearer case. Median processor seconds (others' work on the machine is
not counted); and bytes at a step's peak, those of weights and AdamW's moments with what PyTorch's allocator gives out
besides: in micro-batches as they are, and in such as are so small that what they keep for the backward pass hides
nothing.
"""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from memory import peak
from tasks import read_tasks
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from trace_cl.choices import compose
from trace_cl.strategies import gem
from trace_cl.strategies.base import Example, Round, Strategy
from trace_cl.strategies.gem import GEM
from trace_cl.strategies.hft import HalfFineTuning
from trace_cl.strategies.selection import Selection
from trace_cl.strategies.seqft import SeqFT
from trace_cl.tiny import CHECKPOINT
from trace_cl.training.engine import Optimization
from trace_cl.training.model import load_model, load_tokenizer
from trace_cl.training.torch_engine import TorchLearner

SIZES = {
    "hidden_size": 320,
    "intermediate_size": 864,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "vocab_size": 2560,
    "tie_word_embeddings": False,
}
"""Of a Llama of 11.6 million parameters."""

TOKENS, FEW = 8192, 128
"""Of a micro-batch, where time is measured, and where memory is."""


def models() -> dict[str, PreTrainedModel]:
    """By name: the one that ships with the project, and a larger one with random weights."""
    torch.manual_seed(0)
    larger = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES))
    return {"tiny": load_model(str(CHECKPOINT), torch.float32), "11.6 M": larger}


def contenders() -> dict[str, Strategy]:
    """What makes a step, by name; each in halves too."""
    stored, streamed = (GEM(memory_batch=1, memory_gradients=how) for how in ("stored", "streamed"))
    whole: dict[str, Any] = {"SeqFT": SeqFT(), "GEM, stored": stored, "GEM, streamed": streamed}
    return whole | {f"{name}, HFT": HalfFineTuning(one, Selection()) for name, one in whole.items()}


class Bench:
    """A model in its eighth round, under one strategy or another."""

    def __init__(self, model: PreTrainedModel, round: Round, batch: list[Example]) -> None:
        self.model, self.round, self.batch = model, round, batch

    def learner(self, strategy: Strategy, tokens: int = TOKENS) -> TorchLearner:
        """With a step made, so that gradients and optimizer are as they are in the midst of a round."""
        names = set(strategy.trainable(self.round, 0, self.model) or ())
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in names)
        learner = TorchLearner(self.model, Optimization(learning_rate=1e-5), tokens)
        if isinstance(kept := getattr(strategy, "kept", None), dict):
            kept.update({task.name: list(range(len(task.train))[:64]) for task in self.round.past})
        strategy.begin_round(self.round, learner)
        self.step(strategy, learner)
        return learner

    def step(self, strategy: Strategy, learner: TorchLearner) -> float:
        """Its seconds."""
        began = process_time()
        learner.backward(self.batch)
        strategy.adjust_gradients(self.round, learner)
        learner.step()
        return process_time() - began

    def peak(self, strategy: Strategy, tokens: int) -> int:
        """Bytes that are there at the most while a step is made, in micro-batches of so many tokens."""
        learner = self.learner(strategy, tokens)
        most = peak(learner, partial(self.step, strategy, learner))
        learner.close()
        return most


def measure(bench: Bench, turns: int) -> list[dict[str, Any]]:
    """A line a strategy."""
    found: dict[str, list[float]] = {}
    peaks: dict[str, list[int]] = {}
    for name, strategy in contenders().items():
        learner = bench.learner(strategy)
        found[name] = [bench.step(strategy, learner) for _ in range(turns)]
        learner.close()
        peaks[name] = [bench.peak(strategy, tokens) for tokens in (TOKENS, FEW)]
    lines = []
    for name, seconds in found.items():
        like = f"SeqFT{', HFT' * name.endswith('HFT')}"
        lines.append(
            {
                "step": name,
                "seconds": statistics.median(seconds),
                "of SeqFT's": statistics.median(seconds) / statistics.median(found[like]),
                **{
                    f"{figure}, {tokens} tokens": value
                    for tokens, own, seqft in zip((TOKENS, FEW), peaks[name], peaks[like], strict=True)
                    for figure, value in (("peak MB", own / 1e6), ("of SeqFT's", own / seqft))
                },
            }
        )
    return lines


def main() -> None:
    """Print the table, and write the figures down."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    config = compose(["benchmark=embedded"])
    tasks = read_tasks(config, load_tokenizer(str(CHECKPOINT)))
    batch = [example for task in tasks for example in task.train[-1:]]
    memories = len(tasks) - 1
    found = {}
    with patch.object(gem, "multipliers", lambda table, margin, eps: np.full(len(table) - 1, margin)):
        for name, model in models().items():
            found[name] = measure(Bench(model, Round(1, tasks, []), batch), given.turns)
            print(f"{name}: {len(batch)} examples a step, {memories} of memories")
            print(pd.DataFrame(found[name]).set_index("step").to_string(float_format="{:.2f}".format), flush=True)
    print(f"two passes over the memories are {1 + 2 * memories / len(batch):.2f} of a step")
    if given.out is not None:
        given.out.write_text(json.dumps({"batch": len(batch), "memories": memories, "models": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
