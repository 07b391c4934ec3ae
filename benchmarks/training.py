"""Training against transformers.Trainer: python benchmarks/training.py [--model bench] [--out FILE] [benchmark=trace …]

Both train the same examples, as many of each task, in global batches of 16, in one process, in turns: the engine as a
run does it, and `Trainer` with a collator that pads each batch, and malloc as it comes. Of each the median seconds are
printed and how many times ours they are; in the first turn the same without each of the things that make the
difference. Beside them the GFLOP/s of the step: what learning needs (`flops.py`), padding not counted; `matrix product`
is what a layer's own products reach alone, forward and backward, in the same run.

`--model bench` has random weights and 32,000 words (`models.py`); `--model tiny` is the model that ships.
"""

import argparse
import copy
import ctypes
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from flops import needed
from models import build
from tasks import read_tasks
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainingArguments

from trace_cl.choices import compose
from trace_cl.config import check
from trace_cl.data.batches import global_batches, within_budget
from trace_cl.strategies.base import Batch, Example
from trace_cl.strategies.layers import decoder_layers, matrices
from trace_cl.tiny import CHECKPOINT
from trace_cl.training import allocator
from trace_cl.training.engine import Optimization, cast
from trace_cl.training.layout import device_and_dtype
from trace_cl.training.loss import LanguageModel
from trace_cl.training.model import load_model, load_tokenizer
from trace_cl.training.torch_engine import TorchEngine, TorchLearner

GLOBAL_BATCH = 16
ENGINE = "trace_cl.training.torch_engine"


def with_engine(model: PreTrainedModel, examples: Sequence[Example], budget: int = 8192) -> None:
    """As a run trains them."""
    learner = TorchLearner(model, Optimization(learning_rate=1e-5), tokens_per_batch=budget)
    for batch in global_batches(examples, GLOBAL_BATCH, "speed"):
        learner.backward(batch)
        learner.step()
    learner.close()


def with_trainer(model: PreTrainedModel, examples: Sequence[Example]) -> None:
    """As a user of transformers would train them: as they come, padded to the longest."""

    def pad(batch: list[Example]) -> dict[str, Tensor]:
        longest = max(map(len, batch))
        ids, labels = torch.zeros(len(batch), longest, dtype=torch.long), torch.full((len(batch), longest), -100)
        mask = torch.zeros_like(ids)
        for row, example in enumerate(batch):
            ids[row, : len(example)] = torch.tensor([*example.prompt, *example.answer])
            labels[row, len(example.prompt) : len(example)] = torch.tensor(example.answer)
            mask[row, : len(example)] = 1
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=GLOBAL_BATCH,
            num_train_epochs=1,
            learning_rate=1e-5,
            lr_scheduler_type="constant",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            remove_unused_columns=False,
            bf16=model.dtype == torch.bfloat16,
            dataloader_pin_memory=False,
        )
        Trainer(model, arguments, train_dataset=list(examples), data_collator=pad).train()


def all_logits(objective: LanguageModel, batch: Batch) -> Tensor:
    """Over whole rows, of which the answers' are chosen afterwards."""
    with objective.precision():
        logits: Tensor = objective.model(input_ids=batch.input_ids, use_cache=False).logits
    return logits.flatten(0, 1)[batch.positions]


def masked(objective: LanguageModel, batch: Batch) -> Tensor:
    """With a mask that says which tokens are padding."""
    lengths = torch.tensor([length for _, length in batch.rows], device=batch.input_ids.device)
    mask = (torch.arange(batch.input_ids.shape[1], device=lengths.device) < lengths[:, None]).long()
    forward = objective.model.forward
    with patch.object(objective.model, "forward", lambda **given: forward(**given, attention_mask=mask)):
        return LOGITS(objective, batch)


def packed(objective: LanguageModel, batch: Batch) -> Tensor:
    """All rows in one, behind each other without padding, each seeing itself alone."""
    lengths = torch.tensor([length for _, length in batch.rows])
    real = torch.arange(batch.input_ids.shape[1]) < lengths[:, None]
    owner = torch.arange(len(lengths)).repeat_interleave(lengths)
    mask = ((owner[:, None] == owner) & torch.ones(len(owner), len(owner), dtype=torch.bool).tril())[None, None]
    places = torch.cat([torch.arange(length) for length in lengths])
    positions = (real.flatten().cumsum(0) - 1)[batch.positions]
    row = Batch(batch.input_ids[real][None], positions, batch.targets, batch.total, batch.examples)
    forward = objective.model.forward
    more = {"attention_mask": mask, "position_ids": places[None]}
    with patch.object(objective.model, "forward", lambda **given: forward(**given, **more)):
        return LOGITS(objective, row)


LOGITS = LanguageModel.logits


def as_they_come(batch: Sequence[Example], budget: int) -> list[list[Example]]:
    """Micro-batches of at most so many tokens, rows of any lengths beside each other."""
    cut: list[list[Example]] = [[]]
    for example in batch:
        if cut[-1] and (len(cut[-1]) + 1) * max(map(len, [*cut[-1], example])) > budget:
            cut.append([])
        cut[-1].append(example)
    return cut


def as_large_as_may_be(batch: Sequence[Example], budget: int) -> list[list[Example]]:
    """Micro-batches of rows of like length, as few as there can be."""
    return [[batch[i] for i in group] for group in within_budget([len(example) for example in batch], budget)]


@contextmanager
def giving_back() -> Iterator[None]:
    """With malloc as it comes."""
    malloc = ctypes.CDLL(None)
    malloc.mallopt(-4, 65536)
    malloc.mallopt(-1, 128 * 1024)
    yield
    allocator.keep_freed_memory()


def logits_by(other: Callable[[LanguageModel, Batch], Tensor]) -> AbstractContextManager[Any]:
    """Another way to the logits at the answer positions."""
    return patch.object(LanguageModel, "logits", other)


CHANGES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "rows of any lengths together": lambda: patch(f"{ENGINE}.micro_batches", as_they_come),
    "one micro-batch, however much padding": lambda: patch(f"{ENGINE}.micro_batches", as_large_as_may_be),
    "logits at all positions": lambda: logits_by(all_logits),
    "a mask for the padding": lambda: logits_by(masked),
    "packed into one row": lambda: logits_by(packed),
    "freed memory given back": giving_back,
    "bf16": nullcontext,
}


def product(model: PreTrainedModel, tokens: int) -> float:
    """FLOP/s of one layer's products over and over, forward and backward, of so many tokens."""
    first, *_ = decoder_layers(model).values()
    spent, done = 0.0, 0
    for _, matrix in matrices(first):
        weight = matrix.detach()
        rows, out = weight.new_empty(tokens, weight.shape[1]).normal_(), weight.new_empty(tokens, len(weight)).normal_()
        for left, right in ((rows, weight.t()), (out, weight), (out.t(), rows)):
            left @ right
            began = perf_counter()
            left @ right
            spent += perf_counter() - began
            done += 2 * tokens * weight.numel()
    return done / spent


def main() -> None:
    """Print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bench")
    parser.add_argument("--examples", type=int, default=2, help="of each task")
    parser.add_argument("--tokens", type=int, help="of an example, at most (default: as a run)")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    given = parser.parse_args()
    config = compose(given.overrides)
    check(config)
    device, dtype = device_and_dtype(config.device, None)
    model = load_model(str(CHECKPOINT), dtype) if given.model == "tiny" else build(given.model, device, dtype)
    TorchEngine(Optimization(learning_rate=1e-5), device, tokens_per_batch=8192).to_devices(model)
    tasks = read_tasks(config, load_tokenizer(str(CHECKPOINT)), given.tokens)
    examples = [example for task in tasks for example in task.train[: given.examples]]
    work = needed(model, examples)

    def seconds(train: Callable[[PreTrainedModel, Sequence[Example]], None], dtype: torch.dtype = dtype) -> float:
        copied = copy.deepcopy(model)
        cast(copied.parameters(), dtype)
        began = perf_counter()
        train(copied, examples)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return perf_counter() - began

    allocator.keep_freed_memory()
    seconds(with_engine)
    ours, theirs, others = [], [], {}
    for turn in range(given.turns):
        with giving_back():
            theirs.append(seconds(with_trainer))
        ours.append(seconds(with_engine))
        print(f"turn {turn + 1}: {theirs[-1] / ours[-1]:.2f}", flush=True)
        for name, changed in CHANGES.items() if not turn else ():
            with changed():
                others[name] = [seconds(with_engine, torch.bfloat16 if name == "bf16" else dtype)]
    lines = [
        {
            "training": name,
            "s": statistics.median(each),
            "times ours": statistics.median(other / own for other, own in zip(each, ours, strict=False)),
            "GFLOP/s": work / statistics.median(each) / 1e9,
        }
        for name, each in {"transformers.Trainer": theirs, "ours": ours, **others}.items()
    ]
    lines.append({"training": "matrix product", "GFLOP/s": product(model, sum(map(len, examples)) // 4) / 1e9})
    print(pd.DataFrame(lines).set_index("training").to_string(float_format="{:.2f}".format, na_rep=""))
    if given.out:
        about = {"model": given.model, "threads": torch.get_num_threads(), "overrides": given.overrides}
        given.out.write_text(json.dumps({**about, "lines": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
