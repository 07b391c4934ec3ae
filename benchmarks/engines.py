"""Training by both engines on this machine's GPU, FFT against HFT: python benchmarks/engines.py [model=… …]

    python benchmarks/engines.py model=llama2-chat-7b benchmark.root=DIR > benchmarks/engines.md

The model has the architecture its YAML names and random weights, so that none must be downloaded; prompts and answers
are TRACE's. For each engine, and for each of FFT and HFT, in turns: median tokens a second over the steps of one task
after the first two, and the peak of the device's memory. The ratio is against engine=torch with FFT, in one process.
What the dry run plans is printed beside what was measured.
"""

import gc
import statistics
import sys
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import hydra
import pandas as pd
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from trace_cl.analysis.text import markdown
from trace_cl.config import CONF_DIR, EngineConfig, as_dict
from trace_cl.data.batches import Encoder, global_batches
from trace_cl.data.benchmark import load_data, prepare
from trace_cl.strategies.base import Example
from trace_cl.strategies.hft import freeze, select
from trace_cl.strategies.selection import Selection
from trace_cl.tiny import CHECKPOINT
from trace_cl.training import engines
from trace_cl.training import layout as layouts
from trace_cl.training.engine import Optimization
from trace_cl.training.layout import device_and_dtype
from trace_cl.training.memory import Memory, activations, largest_micro_batch
from trace_cl.training.model import build_on_meta, load_tokenizer
from trace_cl.training.ranks import Ranks

STEPS = 8
WARM = 2
GB = 10**9
CONTENDERS = (
    EngineConfig("torch"),
    EngineConfig("deepspeed", zero_stage=0),
    EngineConfig("deepspeed", zero_stage=2),
    EngineConfig("deepspeed", zero_stage=3),
    EngineConfig("deepspeed", zero_stage=2, offload_optimizer=True),
)


@dataclass
class Measured:
    """Median tokens a second, and bytes at the peak (0 where there is no GPU)."""

    speed: float
    peak: int


def train(
    settings: EngineConfig, model: PreTrainedModel, frozen: list[str], batches: list[list[Example]], budget: int
) -> Measured:
    """A round's first steps."""
    device = model.device
    engine = engines.build(settings, Optimization(learning_rate=1e-5), device, budget, Ranks())
    engine.to_devices(model)
    model.requires_grad_(True)
    freeze(model, frozen)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer, speeds = engine.train(model), []
    for batch in batches:
        began = perf_counter()
        trainer.backward(batch)
        trainer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        speeds.append(sum(map(len, batch)) / (perf_counter() - began))
    trainer.close()
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    gc.collect()
    return Measured(statistics.median(speeds[WARM:]), peak)


def main(overrides: list[str]) -> None:
    """Print the table."""
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = hydra.compose("config", ["model=llama2-chat-7b", *overrides])
    device, dtype = device_and_dtype(config.device, config.model.dtype)
    architecture = AutoConfig.for_model(**as_dict(config.model.architecture))
    encoder = Encoder(load_tokenizer(str(CHECKPOINT)), config.training.total_tokens, config.evaluation.prompt_tokens)
    [task, *_] = prepare(config.benchmark, load_data(config.benchmark, instructions=False), "test", encoder).tasks
    steps = global_batches(task.train * 10, config.training.global_batch, "engines")
    batches = [batch for _, batch in zip(range(STEPS), steps, strict=False)]
    budget = config.training.tokens_per_batch
    torch.manual_seed(0)
    with torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(architecture, dtype=dtype)
    micro_batch = largest_micro_batch(batches, budget, config.training.global_batch)
    lines: list[dict[str, Any]] = []
    for contender in CONTENDERS:
        for method, frozen in (("FFT", []), ("HFT", select(model, 1, 1, Selection()))):
            settings = replace(contender, gradient_checkpointing=config.engine.gradient_checkpointing)
            layout = layouts.layout(settings, 1)
            measured = train(settings, model, frozen, batches, budget)
            sizes = build_on_meta(architecture)
            freeze(sizes, frozen)
            kept = activations(sizes, dtype, layout, micro_batch)
            planned = Memory.of(sizes.parameters(), dtype, layout, activations=kept)
            name = f"{settings.name}, ZeRO {layout.stage}" if settings.name == "deepspeed" else settings.name
            lines.append(
                {
                    "engine": name + (", optimizer offloaded" if layout.offload_optimizer else ""),
                    "method": method,
                    "tokens/s": f"{measured.speed:,.0f}",
                    "ratio": f"{measured.speed / (lines[0]['speed'] if lines else measured.speed):.2f}",
                    "peak GB": f"{measured.peak / GB:.1f}",
                    "planned GB": f"{planned.total / GB:.1f}",
                    "speed": measured.speed,
                }
            )
            print(f"{name} {method}: {measured}", file=sys.stderr)
    print(markdown(pd.DataFrame(lines).drop(columns="speed").set_index("engine")))


if __name__ == "__main__":
    main(sys.argv[1:])
