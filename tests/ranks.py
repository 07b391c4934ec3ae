"""What the tests run on several ranks: functions a freshly started process can import."""

import gc
import json
import multiprocessing
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from support import PRELOADED, Killed, killed_at, no_pictures
from torch.multiprocessing.spawn import start_processes
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from trace_cl.analysis import report
from trace_cl.data.batches import collate
from trace_cl.errors import UserError
from trace_cl.evaluation import Generator
from trace_cl.run import start
from trace_cl.strategies.base import Batch, Example, Learner, Model, Parts, Round
from trace_cl.strategies.gem import inner_products
from trace_cl.strategies.hft import HalfFineTuningCallback, freeze, select
from trace_cl.strategies.in_trainer import thaw
from trace_cl.strategies.selection import Selection
from trace_cl.strategies.seqft import SeqFT
from trace_cl.tiny import CHECKPOINT
from trace_cl.training.deepspeed_engine import DeepSpeedEngine, DeepSpeedLearner
from trace_cl.training.engine import Engine, Optimization
from trace_cl.training.model import load_tokenizer
from trace_cl.training.ranks import Ranks, join, leave

CPU = torch.device("cpu")


def on_two_ranks(function: Callable[..., object], *arguments: object) -> None:
    """Call a function in two processes that are each other's ranks."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    multiprocessing.set_forkserver_preload([*PRELOADED, "transformers.trainer"])
    with pytest.MonkeyPatch.context() as here:
        here.setenv("OMP_NUM_THREADS", "1")  # a process with more than one thread cannot be forked safely
        start_processes(_as_rank, (2, port, function, arguments), nprocs=2, start_method="forkserver")


def _as_rank(rank: int, size: int, port: int, function: Callable[..., object], arguments: Sequence[object]) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="localhost", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    gc.freeze()  # what is imported is nothing of the runs, after each round of which garbage is looked for
    vars(report).update(pictures=no_pictures)
    function(*arguments)
    leave()


def start_all(configs: Sequence[dict[str, Any]]) -> None:
    """One run after the other."""
    for config in configs:
        start(OmegaConf.create(config))


def start_and_end_in_round_2(configs: Sequence[dict[str, Any]], afterwards: Sequence[dict[str, Any]]) -> None:
    """Runs that are killed in their tenth step; and, in the same processes, whole ones."""
    for config in configs:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DeepSpeedLearner, "step", killed_at(DeepSpeedLearner.step, 10))
            with pytest.raises(Killed):
                start(OmegaConf.create(config))
    start_all(afterwards)


def start_and_be_refused(configs: Sequence[dict[str, Any]], sentence: str) -> None:
    """Runs that every rank ends with this sentence."""
    for config in configs:
        with pytest.raises(UserError, match=re.escape(sentence)):
            start(OmegaConf.create(config))


def model_of(**sizes: Any) -> PreTrainedModel:
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
    return DeepSpeedEngine(Optimization(learning_rate=1e-3, eps=1e-4), CPU, 4096, ranks, zero_stage=stage, **settings)


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


def use_every_word(
    engine: Engine, model: PreTrainedModel, ranks: Ranks, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """A round in which all that a learner lends is used; what came of it, in whole tensors."""
    answerer = Generator(model, tokenizer, answer_tokens=5, tokens_per_batch=64, ranks=ranks)
    prompts = [example.prompt[: 4 * n] for n, example in enumerate(EXAMPLES[1:], start=1)]
    model.requires_grad_(True)
    freeze(model, ["model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj", "lm_head"])
    learner = engine.train(model, answerer=answerer)
    noted: dict[str, Any] = {"at first": learner.gather(learner.weights())}
    teacher = learner.snapshot()
    before = teacher.logits(collate(EXAMPLES, 18, CPU))

    def answers(tokens: int | None = None) -> list[str]:
        """Of the five prompts the ranks get different numbers."""
        given = ranks.gather(learner.generate(prompts[ranks.rank :: ranks.size], tokens))
        return [given[n % ranks.size][n // ranks.size] for n in range(len(prompts))]

    noted["answers"] = [answers()]

    learner.backward(EXAMPLES)
    gradients = learner.take_gradients()
    noted["gradients"] = learner.gather(gradients)
    for kept in (gradients, {name: gradient.bfloat16() for name, gradient in gradients.items()}):
        again = learner.scatter({**learner.gather(kept), "of another round": torch.ones(3)})
        torch.testing.assert_close(again, kept, rtol=0, atol=0)
    squares = torch.stack([gradient.square().sum() for gradient in gradients.values()])
    noted["squares"] = learner.sum_over_shards(squares)
    learner.put_gradients({name: gradient + weight for (name, gradient), weight in together(gradients, learner)})
    noted["norm"] = learner.step()
    noted["answers"].append(answers(tokens=3))
    for _ in range(2):
        noted["loss"] = learner.backward(EXAMPLES)
        noted["norm, later"] = learner.step()

    anchor = learner.scatter(noted["at first"])
    merged = {name: (then + now) / 2 for (name, then), now in together(anchor, learner)}
    learner.set_weights(merged)
    noted["merged"] = learner.gather(learner.weights())
    noted["answers"].append(answers())
    noted["logits"] = learner.logits(EXAMPLES[2])
    noted["loss, merged"] = learner.backward(EXAMPLES)
    noted["teacher"] = teacher.logits(collate(EXAMPLES, 18, CPU))
    assert not noted["teacher"].requires_grad
    torch.testing.assert_close(noted["teacher"], before, rtol=0, atol=0)
    learner.close()
    noted["at last"] = {name: weight.clone() for name, weight in model.named_parameters()}
    return noted


def together(parts: Parts, learner: Learner) -> Iterator[tuple[tuple[str, torch.Tensor], torch.Tensor]]:
    """Parts and the weights they belong to."""
    weights = learner.weights()
    assert weights.keys() == parts.keys()
    for name, part in parts.items():
        assert part.shape == weights[name].shape
        yield (name, part), weights[name]


def odd_model(tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype) -> PreTrainedModel:
    """One whose norms have sizes that two ranks cannot share evenly, on a tied embedding."""
    sizes = {"hidden_size": 15, "intermediate_size": 21, "num_hidden_layers": 2, "num_attention_heads": 3}
    model = model_of(vocab_size=len(tokenizer), head_dim=6, tie_word_embeddings=True, **sizes)
    return model.bfloat16() if dtype == torch.bfloat16 else model


def use_every_word_under_each_stage(folder: Path) -> None:
    """Note what each stage makes of it, in both dtypes."""
    ranks = join(cuda=False)
    tokenizer = load_tokenizer(str(CHECKPOINT))
    for dtype in (torch.float32, torch.bfloat16):
        for stage in (0, 2, 3):
            model = odd_model(tokenizer, dtype)
            engine = engine_of(stage, ranks)
            engine.to_devices(model)
            noted = use_every_word(engine, model, ranks, tokenizer)
            if ranks.first:
                torch.save(noted, folder / f"{dtype} {stage}")
            else:
                assert not noted["merged"], "the first rank alone has what is whole"
    never_whole = engine_of(3, ranks, gather=False)
    never_whole.to_devices(model)
    learner = train_a_round(never_whole, model, steps=0)
    with pytest.raises(UserError, match="does not fit on one"):
        learner.snapshot()
    with pytest.raises(UserError, match="engine=torch"):
        learner.change()


def stream_under_each_stage() -> None:
    """The table of inner products, and what weighted batches add to a gradient, against gradients that are taken away
    and held, on these very ranks; a part of the model frozen, its head tied, and micro-batches of different numbers."""
    ranks = join(cuda=False)
    tokenizer = load_tokenizer(str(CHECKPOINT))
    batches, weights = [EXAMPLES[:1], EXAMPLES[1:4], EXAMPLES[3:]], [0.5, 2.0, 3.0]
    for dtype in (torch.float32, torch.bfloat16):
        for stage, settings in ((0, {}), (2, {}), (3, {}), (3, {"gather": False})):
            model = odd_model(tokenizer, dtype)
            engine = engine_of(stage, ranks, **settings)
            engine.tokens_per_batch = 50
            engine.to_devices(model)
            learner = train_a_round(engine, model, ["model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"])
            near = 1e-4 if dtype == torch.float32 else 1e-2  # a few roundings of bf16, of 2⁻⁸ each
            for _ in range(2):
                learner.backward(EXAMPLES)
                gradient = learner.take_gradients()
                held = []
                for batch in batches:
                    learner.backward(batch)
                    held.append(learner.take_gradients())
                precise = [{name: part.double() for name, part in each.items()} for each in (*held, gradient)]
                expected = learner.sum_over_shards(inner_products(precise).sum(dim=0))

                learner.backward(EXAMPLES)
                table = learner.inner_products(batches)
                scale = expected.diag().sqrt().outer(expected.diag().sqrt())
                torch.testing.assert_close(table / scale, expected / scale, rtol=0, atol=near)
                for weight, batch in zip(weights, batches, strict=True):
                    learner.backward(batch, weight)
                taken = learner.take_gradients()
                for name, part in taken.items():
                    by_hand = gradient[name] + sum(w * one[name] for w, one in zip(weights, held, strict=True))
                    difference, size = (part - by_hand).norm(), by_hand.norm()
                    assert difference <= near * size, (dtype, stage, settings, name, difference, size)
                learner.put_gradients(taken)
                learner.step()
            learner.close()


def live_bytes() -> int:
    """Bytes of every tensor that something still holds, a storage counted once."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor) and not thing.is_meta]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def eight_rounds_of_each_stage(folder: Path) -> None:
    """Train eight rounds of HFT; note the live bytes after each."""
    ranks = join(cuda=False)
    live: dict[str, list[int]] = {}
    for stage, settings in ((0, {}), (2, {}), (3, {}), (3, {"gather": False})):
        model = model_of()
        engine = engine_of(stage, ranks, **settings)
        engine.to_devices(model)
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
        engine.to_devices(model)
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
        engine.to_devices(model)
        for method, frozen in (("FFT", []), ("HFT", select(model, 1, 1, Selection()))):
            trainer = train_a_round(engine, model, frozen, steps=1)
            states = trainer.engine.basic_optimizer.state.values()
            moments = [state[moment] for state in states for moment in ("exp_avg", "exp_avg_sq")]
            noted.setdefault(stage, {})[method] = sum(m.numel() * m.element_size() for m in moments)
            trainer.close()
    Path(folder, f"rank{ranks.rank}").write_text(json.dumps(noted))


def half_in_a_trainer(folder: Path, zero_stage: int | None = None, **settings: Any) -> Any:
    """Two epochs of two steps, four rows a step, on however many ranks there are, of the model that lies beside the
    folder; `zero_stage` asks for DeepSpeed."""
    if zero_stage is not None:
        sizes = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
        zero = {"stage": zero_stage, "stage3_gather_16bit_weights_on_model_save": True}
        settings["deepspeed"] = {"zero_optimization": zero, **dict.fromkeys(sizes, "auto")}
    callback = HalfFineTuningCallback(round=2, redraw=settings.pop("redraw", "never"))
    arguments = TrainingArguments(
        str(folder),
        num_train_epochs=2,
        per_device_train_batch_size=4 // int(os.environ.get("WORLD_SIZE", "1")),
        learning_rate=1e-3,
        adam_epsilon=1e-4,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        save_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **settings,
    )
    rows = [{"input_ids": [n, 5, 6, 7], "labels": [n, 5, 6, 7]} for n in range(8)]
    # Under ZeRO-3 dealt out over the ranks as it is read.
    model = LlamaForCausalLM.from_pretrained(folder.parent / "model")
    return Trainer(model, arguments, train_dataset=rows, callbacks=[callback])


def half_in_trainers_of_two_ranks(folder: Path) -> None:
    """Save what each kind of trainer makes of it, and how many numbers AdamW's moments hold on each rank."""
    held: dict[str, int] = {}

    def train(name: str, resumed: bool = False, **settings: Any) -> None:
        trainer = half_in_a_trainer(folder / name, **settings)
        trainer.train(resume_from_checkpoint=str(folder / name / "checkpoint-2") if resumed else None)
        trainer.save_model(str(folder / f"{name}{' resumed' * resumed}"))
        if trainer.is_deepspeed_enabled:
            trainer.model_wrapped.save_checkpoint(str(folder / f"{name} engine"))
        optimizer = trainer.optimizer.optimizer
        states = getattr(optimizer, "optimizer", optimizer).state.values()  # DeepSpeed's, round torch's
        held[name] = sum(state["exp_avg"].numel() for state in states)

    for redraw in ("never", "epoch"):
        train(f"DDP {redraw}", redraw=redraw)
    # Without it DDP would wait for the gradients of what is frozen.
    for unfound in ({"ddp_find_unused_parameters": False}, {"gradient_checkpointing": True}):
        with pytest.raises(ValueError, match="ddp_find_unused_parameters=True"):
            half_in_a_trainer(folder / "refused", redraw="epoch", **unfound)
    # From here on accelerate takes every trainer of the process for one of DeepSpeed.
    for stage in (2, 3):
        train(f"ZeRO-{stage}", zero_stage=stage)
        train(f"ZeRO-{stage}", zero_stage=stage, resumed=True)
    with pytest.raises(ValueError, match="cannot be under DeepSpeed"):
        half_in_a_trainer(folder / "refused", zero_stage=2, redraw="epoch")
    late = half_in_a_trainer(folder / "late", zero_stage=2)
    late.remove_callback(HalfFineTuningCallback)
    thaw(late.model)
    late.add_callback(HalfFineTuningCallback(round=2))
    with pytest.raises(ValueError, match="came after the optimizer was dealt out"):
        late.train()
    Path(folder, f"rank{os.environ['RANK']}").write_text(json.dumps(held))


class Merging(SeqFT):
    """A round ends half way between where it began and what it learned (WiSE-FT, arXiv 2109.01903)."""

    name = "merging"
    uses = frozenset({"weights"})

    def begin_round(self, round: Round, learner: Learner) -> None:
        self.before = learner.gather(learner.weights())

    def end_round(self, round: Round, learner: Learner) -> dict[str, Any]:
        before = learner.scatter(self.before)
        learner.set_weights({name: (before[name] + now) / 2 for name, now in learner.weights().items()})
        return {}


class FailsOnTheSecondRank(SeqFT):
    """A strategy in which one of two ranks comes to grief, in the third step."""

    steps = 0

    def adjust_gradients(self, round: Round, learner: Learner) -> dict[str, Any]:
        self.steps += 1
        if self.steps == 3 and os.environ["RANK"] == "1":
            raise RuntimeError("no room left")
        return {}


class SickRow(SeqFT):
    """The loss of one row is not a number."""

    name = "sick_row"

    def begin_round(self, round: Round, learner: Learner) -> None:
        self.sick = round.task.train[3]

    def loss(self, model: Model, batch: Batch) -> torch.Tensor:
        loss = model.mean(batch)
        return loss * float("nan") if self.sick in batch.examples else loss


class TooLargeForTheSecondRank(SeqFT):
    """One of two ranks runs out of memory in the midst of a step."""

    def loss(self, model: Model, batch: Batch) -> torch.Tensor:
        if os.environ["RANK"] == "1":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return model.mean(batch)
