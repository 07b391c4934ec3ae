"""The paper's Table 10: what HFT's steps take of full fine-tuning's, by the share of the layers' matrices that learns.

    python benchmarks/table10.py [--model bench] [--turns 5] [--out FILE] [benchmark=trace benchmark.root=DIR]

A step is a backward pass and AdamW over the same examples, with random weights. The floor is what a step of full
fine-tuning takes less what frozen matrices do not need: the product that makes their gradient, and the optimizer's work
on them, each measured alone in the same run. Everything else stays: their forward product, the one that hands the
gradient on to what lies before them, and all that is no matrix.

Memory is the most that lives at once, by the allocator's own account, beside what the plan counts; in a step of several
micro-batches, as the steps of a run have, so that gradients stand there while the next one is computed.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import pandas as pd
import torch
from memory import peak
from models import build
from tasks import read_tasks
from torch import nn
from transformers import PreTrainedModel

from trace_cl.analysis.text import markdown
from trace_cl.choices import compose
from trace_cl.config import check
from trace_cl.data.batches import micro_batches
from trace_cl.records.files import PUBLISHED, read_json
from trace_cl.strategies.base import Example
from trace_cl.strategies.hft import freeze, select
from trace_cl.strategies.selection import Selection
from trace_cl.tiny import CHECKPOINT
from trace_cl.training.engine import Optimization, adamw
from trace_cl.training.layout import Layout, device_and_dtype
from trace_cl.training.memory import Memory, activations
from trace_cl.training.model import load_tokenizer
from trace_cl.training.torch_engine import TorchEngine, TorchLearner

COUNTS = ((1, 0), (0, 1), (1, 1), (2, 1), (2, 1.5), (2, 2), (3, 2), (4, 2), (3, 3), (4, 3))
"""Attention matrices of 4 and MLP matrices of 3 that learn: the table's ten shares, smallest first."""

REPEATS = 5


def clock(device: torch.device) -> float:
    """Seconds, when the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return perf_counter()


def halves(model: PreTrainedModel) -> list[list[str]]:
    """What is frozen, for each of the ten shares; nothing for the last."""
    drawn = [Selection(attention=a, mlp=m, norm=1) for a, m in COUNTS[:-1]]
    return [*(select(model, 1, 1, selection) for selection in drawn), []]


def start(model: PreTrainedModel, frozen: Sequence[str], budget: int) -> TorchLearner:
    """A round in which these modules do not learn."""
    model.requires_grad_(True)
    freeze(model, frozen)
    return TorchLearner(model, Optimization(learning_rate=1e-5), tokens_per_batch=budget)


def take_step(learner: TorchLearner, examples: Sequence[Example]) -> None:
    learner.backward(examples)
    learner.step()


def seconds(learner: TorchLearner, examples: Sequence[Example]) -> float:
    """Of a step."""
    began = clock(learner.model.device)
    take_step(learner, examples)
    return clock(learner.model.device) - began


def spared(model: PreTrainedModel, frozen: Sequence[str], batches: Sequence[Sequence[Example]]) -> float:
    """Seconds of a step of full fine-tuning that go into these modules' gradients and their updates."""
    modules = [model.get_submodule(name) for name in frozen]
    products = 0.0
    for module in modules:
        if isinstance(module, nn.Linear):
            for batch in batches:
                tokens = len(batch) * (max(map(len, batch)) - 1)
                products += product(module, tokens)
    weights = [parameter for module in modules for parameter in module.parameters()]
    return products + update(weights)


def product(module: nn.Linear, tokens: int) -> float:
    """Seconds of the product that makes the matrix's gradient, alone."""
    like = module.weight
    inputs = torch.randn(tokens, module.in_features, device=like.device, dtype=like.dtype)
    outputs = torch.randn(tokens, module.out_features, device=like.device, dtype=like.dtype)
    took = []
    for _ in range(REPEATS):
        began = clock(like.device)
        outputs.t() @ inputs
        took.append(clock(like.device) - began)
    return statistics.median(took)


def update(weights: Sequence[nn.Parameter]) -> float:
    """Seconds of clipping and AdamW, alone."""
    if not weights:
        return 0.0
    copies = [nn.Parameter(weight.detach().clone()) for weight in weights]
    optimizer, took = adamw(copies, Optimization(learning_rate=0.0)), []
    for _ in range(REPEATS):
        for copied in copies:
            copied.grad = torch.ones_like(copied)
        began = clock(copies[0].device)
        nn.utils.clip_grad_norm_(copies, 1.0)
        optimizer.step()
        took.append(clock(copies[0].device) - began)
    return statistics.median(took)


def main() -> None:
    """Print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bench")
    parser.add_argument("--examples", type=int, default=1, help="of each task, in a step")
    parser.add_argument("--tokens", type=int, default=256, help="of an example, at most")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    given = parser.parse_args()
    config = compose(given.overrides)
    check(config)
    device, dtype = device_and_dtype(config.device, None)
    model = build(given.model, device, dtype)
    TorchEngine(Optimization(learning_rate=1e-5), device, tokens_per_batch=8192).to_devices(model)
    tasks = read_tasks(config, load_tokenizer(str(CHECKPOINT)), given.tokens)
    examples = [example for task in tasks for example in task.train[: given.examples]]
    budget = config.training.tokens_per_batch
    batches = micro_batches(examples, budget)
    twice, tokens = [*examples, *examples], len(batches[0]) * max(map(len, batches[0]))
    largest = max(micro_batches(twice, tokens), key=lambda batch: len(batch) * max(map(len, batch)))
    shape = (len(largest), max(map(len, largest)) - 1, sum(len(example.answer) for example in largest))
    frozen = halves(model)
    took: list[list[float]] = [[] for _ in frozen]
    for turn in range(1 + given.turns):
        for half, each in zip(frozen, took, strict=True):
            learner = start(model, half, budget)
            take_step(learner, examples)
            if turn:
                each.append(seconds(learner, examples))
            learner.close()
    lines = []
    published = read_json(PUBLISHED / "table10.json")
    for share, runtime, half, each in zip(*published.values(), frozen, took, strict=True):
        learner = start(model, half, tokens)
        take_step(learner, twice)
        lived = peak(learner, partial(take_step, learner, twice))
        layout = Layout()
        planned = Memory.of(model.parameters(), dtype, layout, activations=activations(model, dtype, layout, shape))
        learner.close()
        lines.append(
            {
                "trainable %": share,
                "published": runtime,
                "ours": 100 * statistics.median(own / full for own, full in zip(each, took[-1], strict=True)),
                "floor": 100 * (1 - spared(model, half, batches) / statistics.median(took[-1])),
                "memory MiB": lived / 2**20,
                "planned MiB": planned.training / 2**20,
            }
        )
    frame = pd.DataFrame(lines).set_index("trainable %")
    print(markdown(frame.map("{:.1f}".format)))
    if given.out:
        about = {"model": given.model, "threads": torch.get_num_threads(), "overrides": given.overrides}
        given.out.write_text(json.dumps({**about, "lines": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
