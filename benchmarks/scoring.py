"""Scoring against TRACE's way: python benchmarks/scoring.py [--checkpoint DIR] [--out FILE] [benchmark=trace …]

TRACE's way is `generate` on the test prompts in the order of the file, four at a time, to 512 tokens whatever the task
(its scripts' batch and length). Ours is what a run does after a round: `evaluation.generate`, batched by length, equal
prompts once, each answer no further than its score can change. Both answer with the same model in one process, in
turns; of each task the median seconds are printed, their ratio (above 1: this project is faster), and both scores.

`floor` is what cannot be saved: the matrices' products alone, as fast as they are in the same run, of the prompts
(their common beginning once), and of each further token of the rows that have not ended.

DIR is a run's `checkpoint/`: a model that has learned the tasks ends its answers, one that has not goes on and on.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from tasks import read_tasks
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trace_cl.choices import compose
from trace_cl.config import check
from trace_cl.data.benchmark import Task
from trace_cl.evaluation import generate, guessing, score, settled_by, summarize
from trace_cl.training.engine import Optimization
from trace_cl.training.layout import device_and_dtype
from trace_cl.training.model import load_model, load_tokenizer, locate
from trace_cl.training.torch_engine import TorchEngine

BATCH, TOKENS = 4, 512
"""TRACE's (inference/infer_multi_command.sh and its defaults)."""


def traces_way(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    batch_size: int = BATCH,
    tokens: int = TOKENS,
) -> list[str]:
    """Answers as TRACE's inference gives them."""
    answers = []
    for start in range(0, len(prompts), batch_size):
        batch = {"input_ids": list(prompts[start : start + batch_size])}
        padded = tokenizer.pad(batch, padding_side="left", return_tensors="pt").to(model.device)
        with torch.inference_mode():
            output = model.generate(  # type: ignore[operator]
                **padded, max_new_tokens=tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id
            )
        answers += tokenizer.batch_decode(
            output[:, padded.input_ids.shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
    return answers


def seconds(model: PreTrainedModel, began: float) -> float:
    """Since then, when the device is done."""
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - began


class Rows:
    """Takes note of the answers' ids, a list a batch."""

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []

    def get(self, key: str) -> None:
        return None

    def put(self, key: str, rows: list[list[int]]) -> None:
        self.batches.append(rows)


class Products:
    """Seconds of a model's products alone: of the layers' matrices for some tokens, of these and the head for rows."""

    def __init__(self, model: PreTrainedModel) -> None:
        head = model.get_output_embeddings()
        layers = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
        self.prompt = self._of(model, layers, 1024) / 1024
        self.rows = {rows: self._of(model, [*layers, head], rows) for rows in (1, 2, 4, 8, 16, 32, 64, 128)}

    def _of(self, model: PreTrainedModel, matrices: Sequence[nn.Linear], tokens: int) -> float:
        inputs = {m.in_features: torch.randn(tokens, m.in_features).to(m.weight) for m in matrices}
        took = []
        for _ in range(5):
            began = seconds(model, 0.0)
            for matrix in matrices:
                inputs[matrix.in_features] @ matrix.weight.detach().t()
            took.append(seconds(model, began))
        return statistics.median(took)

    def least(self, prompts: Sequence[Sequence[int]], batches: Sequence[Sequence[Sequence[int]]]) -> float:
        """Seconds of these prompts, each once, and of the answers that were given to them."""
        different = sorted(set(map(tuple, prompts)))
        pairs = zip(different[0], different[-1], strict=False)  # all others lie between
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) if len(different) > 1 else 0
        tokens = sum(map(len, different)) - same * (len(different) - 1)
        alive = [sum(len(row) > step for row in rows) for rows in batches for step in range(1, max(map(len, rows)))]
        steps = np.interp(alive, list(self.rows), list(self.rows.values())).sum() if alive else 0.0
        return float(tokens * self.prompt + steps)


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    budget: int,
    turns: int,
    products: Products,
) -> dict[str, Any]:
    """A task's line."""
    settled = settled_by(task.metric, task.references)
    ours, theirs, answers = [], [], {}
    rows = Rows()
    guess = guessing(task.prompts, tokenizer(task.references, add_special_tokens=False).input_ids)
    ask = partial(generate, model, tokenizer, task.prompts, task.answer_tokens, budget, settled=settled, guess=guess)
    ask(kept=rows)
    for _ in range(turns):
        began = perf_counter()
        answers["TRACE"] = traces_way(model, tokenizer, task.prompts)
        theirs.append(seconds(model, began))
        began = perf_counter()
        answers["ours"] = ask()
        ours.append(seconds(model, began))
    scores = {
        whose: summarize(
            task.metric, score(task.metric, task.indices, said, task.references, task.questions), task.questions
        )
        for whose, said in answers.items()
    }
    return {
        "task": task.name,
        "TRACE's way s": statistics.median(theirs),
        "ours s": statistics.median(ours),
        "ratio": statistics.median(their / our for their, our in zip(theirs, ours, strict=True)),
        "floor s": products.least(task.prompts, rows.batches),
        "TRACE's way score": scores["TRACE"]["standard"],
        "our score": scores["ours"]["standard"],
    }


def main() -> None:
    """Print a line a task and their sum, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a run's checkpoint/ (default: the model as it comes)")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    given = parser.parse_args()
    config = compose(given.overrides)
    check(config)
    folder = str(given.checkpoint or locate(config.model.source, config.model.path))
    device, dtype = device_and_dtype(config.device, config.model.dtype)
    tokenizer, model = load_tokenizer(folder), load_model(folder, dtype)
    TorchEngine(Optimization(learning_rate=1e-5), device, tokens_per_batch=8192).to_devices(model)
    tasks = read_tasks(config, tokenizer)
    products = Products(model)
    budget = config.evaluation.tokens_per_batch
    lines = [measure(model, tokenizer, task, budget, given.turns, products) for task in tasks]
    lines.append(
        {
            "task": "all",
            **{key: sum(line[key] for line in lines) for key in ("TRACE's way s", "ours s", "floor s")},
            "ratio": sum(line["TRACE's way s"] for line in lines) / sum(line["ours s"] for line in lines),
            **{key: statistics.mean(line[key] for line in lines) for key in ("TRACE's way score", "our score")},
        }
    )
    frame = pd.DataFrame(lines).set_index("task")
    print(frame.to_string(float_format="{:.2f}".format))
    if given.out:
        given.out.write_text(json.dumps({"overrides": given.overrides, "tasks": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
