"""Training and scoring against what one would otherwise write: python benchmarks/speed.py [benchmark=trace model=… …]

Both sides do the same work on the same examples in one process, in turns, and the median ratio of several turns is
printed (above 1: this project is faster).

training: one epoch over a mixture of all tasks, by the engine and by `transformers.Trainer` with a padding collator.
scoring:  answers to every task's test prompts, by `evaluation.generate` (batched by length, each task to its own
          length) and by `model.generate` on batches in file order, 512 tokens for every task.
"""

import copy
import statistics
import sys
import tempfile
from collections.abc import Callable
from time import perf_counter

import hydra
import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainingArguments

from trace_cl.config import CONF_DIR, check
from trace_cl.data.batches import Encoder, global_batches
from trace_cl.data.benchmark import Task, load_data, prepare
from trace_cl.evaluation import generate
from trace_cl.strategies.base import Example
from trace_cl.training.engine import Optimization
from trace_cl.training.layout import device_and_dtype
from trace_cl.training.model import load_model, load_tokenizer, locate
from trace_cl.training.torch_engine import TorchEngine, TorchLearner

TURNS = 3
BATCH = 16


def seconds(work: Callable[[], object]) -> float:
    """How long it takes, until the device is done."""
    began = perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter() - began


def with_engine(model: PreTrainedModel, examples: list[Example]) -> None:
    """One epoch as a run trains it."""
    engine = TorchLearner(model, Optimization(learning_rate=1e-5), tokens_per_batch=8192)
    for batch in global_batches(examples, BATCH, "speed"):
        engine.backward(batch)
        engine.step()
    engine.close()


def with_trainer(model: PreTrainedModel, examples: list[Example]) -> None:
    """One epoch as a user of transformers would train it: examples as they come, padded to the longest."""

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
            per_device_train_batch_size=BATCH,
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
        Trainer(model, arguments, train_dataset=examples, data_collator=pad).train()


def main(overrides: list[str]) -> None:
    """Print the two ratios."""
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = hydra.compose("config", overrides)
    check(config)
    folder = locate(config.model.source, config.model.path)
    device, dtype = device_and_dtype(config.device, config.model.dtype)
    tokenizer, model = load_tokenizer(folder), load_model(folder, dtype)
    TorchEngine(Optimization(learning_rate=1e-5), device, tokens_per_batch=8192).to_devices(model)
    encoder = Encoder(tokenizer, config.training.total_tokens, config.evaluation.prompt_tokens)
    tasks = prepare(config.benchmark, load_data(config.benchmark, instructions=False), "test", encoder).tasks
    mixture = [example for task in tasks for example in task.train[:100]]
    shuffled = [example for batch in global_batches(mixture, len(mixture), "mixture") for example in batch]

    def score_ours() -> None:
        for task in tasks:
            generate(model, tokenizer, task.prompts, task.answer_tokens, config.evaluation.tokens_per_batch)

    def score_plainly() -> None:
        for task in tasks:
            plain_answers(task)

    def plain_answers(task: Task) -> None:
        for start in range(0, len(task.prompts), BATCH):
            batch = task.prompts[start : start + BATCH]
            padded = tokenizer.pad({"input_ids": batch}, padding_side="left", return_tensors="pt").to(device)
            with torch.inference_mode():
                model.generate(  # type: ignore[operator]
                    **padded, max_new_tokens=512, do_sample=False, pad_token_id=tokenizer.eos_token_id
                )

    training, scoring = [], []
    for turn in range(TURNS):
        theirs = seconds(lambda: with_trainer(copy.deepcopy(model), shuffled))
        ours = seconds(lambda: with_engine(copy.deepcopy(model), shuffled))
        training.append(theirs / ours)
        scoring.append(seconds(score_plainly) / seconds(score_ours))
        print(f"turn {turn + 1}: training {training[-1]:.2f}, scoring {scoring[-1]:.2f}", flush=True)
    print(f"training: {statistics.median(training):.2f} times as fast as transformers.Trainer")
    print(f"scoring:  {statistics.median(scoring):.2f} times as fast as plain generate to 512 tokens")


if __name__ == "__main__":
    main(sys.argv[1:])
