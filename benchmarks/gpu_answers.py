"""How fast answers are scored against TRACE's way, and which of them the batching and the dtype change."""

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter, time

import torch
from gpu_bench import Bench, Part, drop_what_is_left
from models import random_model
from scoring import BATCH, TOKENS, seconds, traces_way
from torch import Tensor
from transformers import PreTrainedModel

from trace_cl.config import as_dict
from trace_cl.data.benchmark import Task
from trace_cl.errors import UserError
from trace_cl.evaluation import generate, settled_by
from trace_cl.strategies.base import Example
from trace_cl.tiny import CHECKPOINT
from trace_cl.training.engine import Optimization
from trace_cl.training.free_memory import main_memory, measure
from trace_cl.training.memory import answering, largest_answered
from trace_cl.training.model import load_model
from trace_cl.training.ranks import Ranks
from trace_cl.training.torch_engine import TorchEngine, TorchLearner

BUDGETS = [262144, 131072, 65536, 32768, 16384]
"""Tokens of a batch of prompts and answers; the most that the plan has room for are used."""


def scoring(bench: Bench) -> None:
    """Scored examples a second, task by task, with a model that mostly does not end its answers.

    TRACE's way is measured on its first batch alone, and up to `timed_tokens`: a token costs what it costs between the
    first and that one, which is too little for later ones, that look back at more.
    """
    device, dtype = bench.place
    model = random_model(as_dict(bench.compose().model.architecture), dtype, device)
    budget = tokens_per_batch(bench, model)
    theirs, ours, longest = list[float](), list[float](), 0.0
    for task in bench.benchmark.tasks:
        if time() + longest > bench.deadline:
            bench.tell(f"scoring {task.name}", "no time left", None)
            continue
        began = time()
        theirs.append(traces_seconds(bench, model, task.prompts[:BATCH]) / len(task.prompts[:BATCH]))
        budget, taken = own_seconds(bench, model, task, budget)
        ours.append(taken / len(task.prompts))
        longest = max(longest, time() - began)
        beside = f"TRACE's way {1 / theirs[-1]:.3g}; {len(task.prompts)} examples, at most {budget} tokens at once"
        bench.tell(f"scoring {task.name}", "examples/s", 1 / ours[-1], beside)
        bench.tell(f"scoring {task.name}", "times TRACE's way", theirs[-1] / ours[-1])
    whole = sum(theirs) / sum(ours)
    bench.tell("scoring", "times TRACE's way", whole, f"over {len(ours)} tasks, as many examples of each")


def traces_seconds(bench: Bench, model: PreTrainedModel, prompts: Sequence[list[int]]) -> float:
    """What a batch takes to 512 tokens each, from what the first and the last timed token take."""
    some = bench.scale.timed_tokens
    answer = partial(traces_way, model, bench.tokenizer, prompts)
    answer(tokens=1)  # the first time a shape takes longer
    first, until = (timed(model, partial(answer, tokens=tokens)) for tokens in (1, some))
    return first + (until - first) / (some - 1) * (TOKENS - 1)


def own_seconds(bench: Bench, model: PreTrainedModel, task: Task, budget: int) -> tuple[int, float]:
    """What all of a task's prompts take, at so many tokens at once, or at half as many where the plan was wrong."""
    settled = settled_by(task.metric, task.references)
    answer = partial(generate, model, bench.tokenizer, task.prompts, task.answer_tokens, settled=settled)
    try:
        return budget, timed(model, partial(answer, tokens_per_batch=budget))
    except UserError:
        if budget <= BUDGETS[-1]:
            raise
    drop_what_is_left()
    return own_seconds(bench, model, task, budget // 2)


def timed(model: PreTrainedModel, work: Callable[[], object]) -> float:
    """Seconds until the device is done."""
    began = perf_counter()
    work()
    return seconds(model, began)


def tokens_per_batch(bench: Bench, model: PreTrainedModel) -> int:
    """The most of `BUDGETS` for which there is room."""
    device, dtype = bench.place
    free = measure(device, Ranks()).device or main_memory() // 4

    def fits(budget: int) -> bool:
        return sum(answering(model, dtype, largest_answered(bench.benchmark.tasks, budget))) <= 0.9 * free

    return next(filter(fits, BUDGETS), BUDGETS[-1])


def invariances(bench: Bench) -> None:
    """How many answers batches change against one prompt at a time, and by how much the cut into micro-batches changes
    loss and gradient: in fp32 and bf16, of the tiny model, which has learned to answer, and of one of real sizes with
    random weights, whose likeliest words are nearly as likely as the next."""
    device = bench.place[0]
    second = as_dict(bench.second().compose().model.architecture)
    models: dict[str, Callable[[torch.dtype], PreTrainedModel]] = {
        "tiny model": partial(load_model, str(CHECKPOINT)),
        "random model": partial(random_model, second, device=device),
    }
    for dtype in (torch.float32, torch.bfloat16):
        for subject, build in models.items():
            model = build(dtype)
            TorchEngine(Optimization(learning_rate=1e-5), device, BUDGETS[-1]).to_devices(model)
            name = f"{subject}, {str(dtype).removeprefix('torch.')}"
            changed_answers(bench, name, model)
            changed_gradient(bench, name, model)
            del model


def changed_answers(bench: Bench, subject: str, model: PreTrainedModel) -> None:
    """Of all tasks' first prompts."""
    tokens = bench.scale.answer_tokens
    prompts = [prompt for task in bench.benchmark.tasks for prompt in task.prompts[: bench.scale.asked]]
    alone = traces_way(model, bench.tokenizer, prompts, batch_size=1, tokens=tokens)
    batched = generate(model, bench.tokenizer, prompts, tokens, BUDGETS[-1])
    differing = sum(one != other for one, other in zip(alone, batched, strict=True))
    beside = f"of {len(prompts)}, to {tokens} tokens, in batches against one prompt at a time"
    bench.tell(subject, "differing answers", differing, beside)


def changed_gradient(bench: Bench, subject: str, model: PreTrainedModel) -> None:
    """Of two examples of each task, in micro-batches as large as can be and of one or two examples."""
    examples = [example for task in bench.benchmark.tasks for example in task.train[:2]]
    longest = max(map(len, examples))
    (loss, gradient), (other, cut) = (of_a_step(model, examples, tokens) for tokens in (8 * longest, longest))
    bench.tell(subject, "relative change of the loss", abs(loss - other) / abs(loss), "by the cut into micro-batches")
    change = torch.stack([(gradient[name] - cut[name]).norm() for name in gradient]).norm()
    whole = torch.stack([part.norm() for part in gradient.values()]).norm()
    bench.tell(subject, "relative change of the gradient", (change / whole).item(), "its norm against the gradient's")


def of_a_step(model: PreTrainedModel, examples: list[Example], tokens: int) -> tuple[float, dict[str, Tensor]]:
    """A step's loss and gradient."""
    model.requires_grad_(True)
    learner = TorchLearner(model, Optimization(learning_rate=1e-5), tokens)
    loss, gradient = learner.backward(examples), learner.take_gradients()
    learner.close()
    return loss, gradient


PARTS: dict[str, Part] = {"scoring": scoring, "invariances": invariances}
