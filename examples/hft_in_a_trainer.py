"""Half Fine-Tuning in a plain `transformers.Trainer`: python examples/hft_in_a_trainer.py

Two trainings one after another, each of a fresh random half of the model. What was frozen has not moved.
"""

import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from trace_cl.strategies.hft import HalfFineTuningCallback, parameters_of
from trace_cl.tiny import CHECKPOINT

model = AutoModelForCausalLM.from_pretrained(CHECKPOINT)
tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
ids = tokenizer("Lina has three apples and buys two more. How many apples has she now? 5").input_ids
examples = [{"input_ids": ids, "labels": ids}] * 16

for number in (1, 2):
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    half = HalfFineTuningCallback(round=number)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=2, per_device_train_batch_size=8, report_to=[], disable_tqdm=True, use_cpu=True
        )
        Trainer(model, arguments, train_dataset=examples, callbacks=[half]).train()
    frozen = parameters_of(model, half.frozen)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert not moved & frozen
    print(f"training {number}: {len(half.frozen)} modules frozen, {len(moved)} of {len(before)} parameters have moved")
