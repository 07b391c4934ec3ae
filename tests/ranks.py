"""What the tests run on several ranks: functions a freshly started process can import."""

import gc
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from support import killed_after_writing
from torch.multiprocessing.spawn import spawn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from strategies.hft import Selection, freeze, select
from trace_cl.batches import Encoded
from trace_cl.engines.base import Optimization
from trace_cl.engines.deepspeed_engine import DeepSpeedEngine, DeepSpeedTrainer
from trace_cl.journal import Journal
from trace_cl.ranks import Ranks, join, leave
from trace_cl.run import start

CPU = torch.device("cpu")


def on_two_ranks(function: Callable[..., object], *arguments: object) -> None:
    """Call a function in two processes that are each other's ranks."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    spawn(_as_rank, (2, port, function, arguments), nprocs=2)


def _as_rank(rank: int, size: int, port: int, function: Callable[..., object], arguments: Sequence[object]) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="localhost", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    function(*arguments)
    leave()


def start_all(configs: Sequence[dict[str, Any]]) -> None:
    """One run after the other."""
    for config in configs:
        start(OmegaConf.create(config))


def start_and_die_after_the_first_round(config: dict[str, Any]) -> None:
    """A run that is ended when its first row is written."""
    Journal.finish_round = killed_after_writing(Journal.finish_round)  # type: ignore[method-assign]
    start(OmegaConf.create(config))


def model_of(**sizes: int) -> PreTrainedModel:
    """A Llama whose matrices are large against its norms."""
    torch.manual_seed(0)
    config: dict[str, Any] = {
        "vocab_size": 512,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        **sizes,
    }
    return LlamaForCausalLM(LlamaConfig(**config))


def engine_of(stage: int, ranks: Ranks, **settings: Any) -> DeepSpeedEngine:
    return DeepSpeedEngine(Optimization(learning_rate=1e-3), CPU, 4096, ranks, zero_stage=stage, **settings)


EXAMPLES = [Encoded(list(range(1, 20 + n)), [5, 6, 7]) for n in range(6)]


def train_a_round(
    engine: DeepSpeedEngine, model: PreTrainedModel, frozen: Sequence[str] = (), steps: int = 2
) -> DeepSpeedTrainer:
    """Everything but the frozen modules learns; the round is left open."""
    model.requires_grad_(True)
    freeze(model, frozen)
    trainer = engine.train(model)
    for _ in range(steps):
        trainer.backward(EXAMPLES)
        trainer.step()
    return trainer


def live_bytes() -> int:
    """Bytes of every tensor that something still holds, a storage counted once."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def eight_rounds(stage: int, settings: dict[str, Any], folder: Path) -> None:
    """Train eight rounds of HFT; note the live bytes after each."""
    ranks = join(cuda=False)
    model = model_of()
    engine = engine_of(stage, ranks, **settings)
    engine.place(model)
    lines = []
    for round in range(1, 9):
        train_a_round(engine, model, select(model, round, 1, Selection())).close()
        lines.append(str(live_bytes()))
    Path(folder, f"rank{ranks.rank}").write_text("\n".join(lines))


def live_bytes_of_a_step(stage: int, sizes: dict[str, int], frozen: Sequence[str], folder: Path) -> None:
    """Note the live bytes before anything is trained, with gradients and the optimizer's state, and after a step."""
    ranks = join(cuda=False)
    model = model_of(**sizes)
    engine = engine_of(stage, ranks)
    engine.place(model)
    noted = [live_bytes()]
    trainer = train_a_round(engine, model, frozen, steps=1)
    trainer.backward(EXAMPLES)
    noted.append(live_bytes())
    trainer.step()
    noted.append(live_bytes())
    Path(folder, f"rank{ranks.rank}").write_text(" ".join(map(str, noted)))
