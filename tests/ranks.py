"""What the tests run on several ranks: functions a freshly started process can import."""

import gc
import json
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

from trace_cl.records.journal import Journal
from trace_cl.run import start
from trace_cl.strategies.base import Example, Learner, Round
from trace_cl.strategies.hft import freeze, select
from trace_cl.strategies.selection import Selection
from trace_cl.strategies.seqft import SeqFT
from trace_cl.training.deepspeed_engine import DeepSpeedEngine, DeepSpeedLearner
from trace_cl.training.engine import Optimization
from trace_cl.training.ranks import Ranks, join, leave

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


EXAMPLES = [Example(list(range(1, 20 + n)), [5, 6, 7]) for n in range(6)]


def train_a_round(
    engine: DeepSpeedEngine, model: PreTrainedModel, frozen: Sequence[str] = (), steps: int = 2
) -> DeepSpeedLearner:
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


def eight_rounds_of_each_stage(folder: Path) -> None:
    """Train eight rounds of HFT; note the live bytes after each."""
    ranks = join(cuda=False)
    live: dict[str, list[int]] = {}
    for stage, settings in ((0, {}), (2, {}), (3, {}), (3, {"gather": False})):
        model = model_of()
        engine = engine_of(stage, ranks, **settings)
        engine.place(model)
        for round in range(1, 9):
            train_a_round(engine, model, select(model, round, 1, Selection()), steps=1).close()
            live.setdefault(f"{stage} {settings}", []).append(live_bytes())
    Path(folder, f"rank{ranks.rank}").write_text(json.dumps(live))


def live_bytes_of_a_step_of_each_stage(sizes: dict[str, int], frozen: Sequence[str], folder: Path) -> None:
    """Note the live bytes before anything is trained, with gradients and the optimizer's state, and after a step."""
    ranks = join(cuda=False)
    live = {}
    for stage in (0, 2, 3):
        model = model_of(**sizes)
        engine = engine_of(stage, ranks)
        engine.place(model)
        noted = [live_bytes()]
        trainer = train_a_round(engine, model, frozen, steps=1)
        trainer.backward(EXAMPLES)
        noted.append(live_bytes())
        trainer.step()
        noted.append(live_bytes())
        trainer.close()
        live[stage] = noted
        del model, engine, trainer
    Path(folder, f"rank{ranks.rank}").write_text(json.dumps(live))


def optimizers_bytes_of_each_stage(folder: Path) -> None:
    """Note the bytes of AdamW's moments on this rank, all of the model learning, and half of it."""
    ranks = join(cuda=False)
    noted: dict[int, dict[str, int]] = {}
    for stage in (0, 2, 3):
        model = model_of()
        engine = engine_of(stage, ranks)
        engine.place(model)
        for method, frozen in (("FFT", []), ("HFT", select(model, 1, 1, Selection()))):
            trainer = train_a_round(engine, model, frozen, steps=1)
            states = trainer.engine.basic_optimizer.state.values()
            moments = [state[moment] for state in states for moment in ("exp_avg", "exp_avg_sq")]
            noted.setdefault(stage, {})[method] = sum(m.numel() * m.element_size() for m in moments)
            trainer.close()
    Path(folder, f"rank{ranks.rank}").write_text(json.dumps(noted))


class FailsOnTheSecondRank(SeqFT):
    """A strategy in which one of two ranks comes to grief, in the third step."""

    steps = 0

    def adjust_gradients(self, round: Round, learner: Learner) -> dict[str, Any]:
        self.steps += 1
        if self.steps == 3 and os.environ["RANK"] == "1":
            raise RuntimeError("no room left")
        return {}
