"""The strategies in whole runs: what each leaves untouched, and that each goes on where it stopped."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from peft import PeftModel
from support import Killed, compose, everything, killed_after, only_run, results
from transformers import AutoModelForCausalLM, PreTrainedModel

from trace_cl import evaluation
from trace_cl import run as runner
from trace_cl.build import build_strategy
from trace_cl.data.batches import Encoder
from trace_cl.errors import UserError
from trace_cl.evaluation import generate
from trace_cl.training.adaptation import Adaptation
from trace_cl.training.free_memory import FreeMemory
from trace_cl.training.loss import LanguageModel
from trace_cl.training.model import load_tokenizer
from trace_cl.training.torch_engine import TorchLearner

Run = Callable[..., Path]


def test_an_adapter_in_bf16_is_scored_alike_by_a_resumed_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between its checkpoint and its scores, where the resumed run reads what the other one holds."""
    bf16 = ("strategy=lora_seqft", "model.dtype=bf16", "training.learning_rate=0.3")
    whole = run(*bf16, method="lora_seqft")
    again = (*bf16, f"runs_dir={tmp_path / 'again'}")
    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(runner.Run, "keep", killed_after(runner.Run.keep))
            with pytest.raises(Killed):
                run(*again)
    run(*again)
    resumed = only_run(tmp_path / "again")
    assert results(resumed) == results(whole)
    weights = [(folder / "checkpoint" / "adapter_model.safetensors").read_bytes() for folder in (whole, resumed)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("method", ["lora_seqft", "gem+hft"])
def test_one_draw_more_moves_no_other(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """PyTorch's, numpy's and Python's common streams, drawn from where a model is loaded, trained and asked."""
    overrides = {
        "lora_seqft": ("strategy=lora_seqft", "training.learning_rate=0.3"),
        "gem+hft": ("strategy=gem", "hft=true"),
    }[method]
    plain = run(*overrides, method=method)
    drawn = [0]

    def drawing(act: Callable[..., Any]) -> Callable[..., Any]:
        def draw_and_act(*args: Any, **kwargs: Any) -> Any:
            drawn[0] += 1
            torch.rand(drawn[0]), np.random.rand(), random.random()
            return act(*args, **kwargs)

        return draw_and_act

    for owner, name in (
        (runner, "load_model"),
        (TorchLearner, "__init__"),
        (LanguageModel, "logits"),
        (TorchLearner, "step"),
        (evaluation, "generate"),
    ):
        monkeypatch.setattr(owner, name, drawing(getattr(owner, name)))
    other = run(*overrides, f"runs_dir={tmp_path / 'other'}")
    assert drawn[0] > 50
    assert results(other) == results(plain)
    weights = [
        {file.name: file.read_bytes() for file in (folder / "checkpoint").glob("*.safetensors")}
        for folder in (plain, other)
    ]
    assert weights[0]
    assert weights[0] == weights[1]


def test_replay_of_nothing_is_seqft_bit_for_bit(run: Run) -> None:
    plain = run()
    replay = run("strategy=replay", "strategy.ratio=0", "strategy.instructions=false", method="replay")
    assert results(plain) == results(replay)
    weights = [(folder / "checkpoint" / "model.safetensors").read_bytes() for folder in (plain, replay)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        ("ewc", ["strength=0"]),
        ("lwf", ["strength=0"]),
        ("l2sp", ["strength=0"]),
        ("mixout", ["p=0"]),
        ("merge", ["weight=1"]),
        ("merge", ["weight=1", "how=dare", "density=1", "other=base"]),
    ],
)
def test_a_strength_of_nothing_is_seqft_bit_for_bit(run: Run, strategy: str, settings: list[str]) -> None:
    plain = run()
    other = run(f"strategy={strategy}", *(f"strategy.{setting}" for setting in settings), method=strategy)
    assert results(plain) == results(other)
    weights = [(folder / "checkpoint" / "model.safetensors").read_bytes() for folder in (plain, other)]
    assert weights[0] == weights[1]


NOTHING = {
    "der": ("strategy.alpha=0", "strategy.beta=0"),
    "mbpa": ("strategy.steps=0", "strategy.ratio=0"),
}


@pytest.mark.parametrize("strategy", NOTHING)
def test_a_memory_that_is_never_read_is_seqft_bit_for_bit(run: Run, strategy: str) -> None:
    plain = everything(run())
    assert everything(run(f"strategy={strategy}", *NOTHING[strategy], method=strategy)) == plain


def test_adapting_to_every_prompt_leaves_no_trace_in_what_is_learned(run: Run) -> None:
    """Three rounds with weights that were adapted and put back in between are those of SeqFT, byte for byte; the
    answers are not."""
    plain = everything(run())
    adapted = everything(run("strategy=mbpa", "strategy.steps=2", "strategy.rate=3", "strategy.ratio=0", method="mbpa"))
    for shared in ("model.safetensors", "train.jsonl", "predictions/round0/FOMC.jsonl"):
        assert adapted[shared] == plain[shared], shared
    assert any(adapted[file] != plain[file] for file in plain if file.startswith("predictions/round3"))


def test_scoring_that_is_stopped_goes_on_to_the_same_adapted_answers(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mbpa = ("strategy=mbpa", "strategy.steps=2", "strategy.rate=3", "benchmark.order=[C-STANCE,FOMC]")
    whole = everything(run(*mbpa, method="mbpa"))
    adapt, count = Adaptation._adapt, [0]

    def counted(self: Adaptation, model: PreTrainedModel) -> None:
        count[0] += 1
        if count[0] == 7:  # in the second round, between two prompts of a task
            raise Killed
        adapt(self, model)

    monkeypatch.setattr(Adaptation, "_adapt", counted)
    again = (*mbpa, f"runs_dir={tmp_path / 'again'}")
    with pytest.raises(Killed):
        run(*again)
    run(*again)
    assert everything(only_run(tmp_path / "again")) == whole
    assert count[0] == 1 + 3 * 4, "each prompt once, but for the one that was being answered"


def test_replay_counts_its_sources_and_trains_on_them(run: Run) -> None:
    folder = run("strategy=replay", "strategy.ratio=0.5", method="replay")
    record = json.loads((folder / "rounds" / "round3.json").read_text())
    assert record["strategy"]["replayed"] == {"instructions": 12, "C-STANCE": 6, "FOMC": 6}
    steps = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    replayed = [step for step in steps if step["round"] == 3 and step["phase"] == "replay"]
    assert len(replayed) == 5  # 24 examples in batches of 5
    assert record["optimizer_steps"] == len([step for step in steps if step["round"] == 3])


def test_a_penalty_of_nothing_is_told_of(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("strategy=ewc", "strategy.strength=0", method="ewc")
    said = capsys.readouterr().err
    report = (folder / "report.md").read_text()
    assert "terms" in json.loads((folder / "rounds" / "round1.json").read_text())
    for place in (said, report):
        assert "round 1 (C-STANCE): penalty" not in place, "no past task, no penalty"
        assert "round 2 (FOMC): penalty was zero in all of 9 steps" in place
        assert "round 3 (MeetingBank): penalty was zero in all of 6 steps" in place


def test_a_penalty_that_leaves_the_task_no_say_is_told_of(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("strategy=ewc", "strategy.strength=1e6", "benchmark.order=[C-STANCE,FOMC]", method="ewc")
    steps = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    second = [step for step in steps if step["round"] == 2]
    times = sum(step["penalty"] for step in second) / sum(step["loss"] for step in second)
    assert times > 100
    finding = f"round 2 (FOMC): penalty was {times:,.0f} times the loss on average"
    assert finding in capsys.readouterr().err
    assert finding in (folder / "report.md").read_text()


def test_distillation_is_noted_step_by_step(run: Run, tmp_path: Path) -> None:
    """What LwF adds to the loss, however a step is cut: nothing where student and teacher are one, more later on."""
    folder = run("strategy=lwf", method="lwf")
    cut = run(
        "strategy=lwf",
        "training.tokens_per_batch=40",
        f"runs_dir={tmp_path / 'cut'}",
        method="lwf",
    )
    steps, again = ([json.loads(line) for line in (f / "train.jsonl").read_text().splitlines()] for f in (folder, cut))
    assert all("distillation" not in step for step in steps if step["round"] == 1)
    later = [step for step in steps if step["round"] > 1]
    for step in later:
        assert step["loss"] == pytest.approx(step["task_loss"] + step["distillation"])
        if step["step"] == 1:
            assert step["distillation"] == 0
        else:
            assert step["distillation"] > 1e-4
    noted = [step["distillation"] for step in later]
    assert noted == pytest.approx([s["distillation"] for s in again if s["round"] > 1], rel=1e-2, abs=1e-5)
    record = json.loads((folder / "rounds" / "round2.json").read_text())["terms"]["distillation"]
    mean = sum(step["distillation"] for step in later if step["round"] == 2) / 9
    assert record["mean"] == pytest.approx(mean)
    assert record["acted"] == 8, "not in the first step"
    assert "| FOMC | distillation | 8 of 9 |" in (folder / "report.md").read_text()


@pytest.mark.parametrize("hft", ["false", "true"])
def test_gem_tells_of_every_step_and_the_constraint_holds(run: Run, hft: str) -> None:
    method = "gem+hft" if hft == "true" else "gem"
    folder = run("strategy=gem", f"hft={hft}", "strategy.margin=0", "strategy.eps=0", method=method)
    steps = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert all("projected" not in step for step in steps if step["round"] == 1)
    later = [step for step in steps if step["round"] > 1]
    for step in later:
        least = step["least_inner_product"]
        assert step["projected"] == (least["before"] < 0)
        assert least["after"] >= -1e-6 * abs(least["before"])
        assert len(step["multipliers"]) == (step["round"] - 1 if step["projected"] else 0)
    assert any(step["projected"] for step in later)
    for t in (2, 3):
        record = json.loads((folder / "rounds" / f"round{t}.json").read_text())
        projected = [step["projected"] for step in later if step["round"] == t]
        assert record["strategy"]["projected_share"] == sum(projected) / len(projected)
    assert "projected share" in (folder / "report.md").read_text()


def test_gem_streams_by_itself_where_storing_has_no_room(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was chosen is told and recorded, and the run is the same to rounding; one that has room stores."""
    norms = {}
    for chosen, room in (("stored", 2**40), ("streamed", 1)):
        monkeypatch.setattr(runner, "measure", lambda device, ranks, room=room: FreeMemory(None, room))
        folder = run("strategy=gem", f"runs_dir={tmp_path / chosen}", method="gem")
        assert f"strategy.memory_gradients={chosen} (auto)" in capsys.readouterr().err
        records = [json.loads((folder / "rounds" / f"round{t}.json").read_text()) for t in (1, 2, 3)]
        assert [record["strategy"]["memory_gradients"] for record in records] == [chosen] * 3
        steps = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
        assert any(step.get("projected") for step in steps)
        norms[chosen] = [step["gradient_norm"] for step in steps]
    assert norms["streamed"] == pytest.approx(norms["stored"], rel=1e-3)


def test_lora_leaves_the_backbone_alone_and_its_adapter_loads_with_peft(
    run: Run, small_model: Path, small_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[runner.Run] = []
    open_run = runner.open_run

    def kept_open(*arguments: Any) -> runner.Run:
        opened.append(open_run(*arguments))
        return opened[-1]

    monkeypatch.setattr(runner, "open_run", kept_open)
    order = ",".join(compose().benchmark.order)
    folder = run(
        "strategy=lora_seqft", "training.learning_rate=0.05", f"benchmark.order=[{order}]", method="lora_seqft"
    )
    checkpoint = folder / "checkpoint"
    assert len((folder / "matrix.csv").read_text().splitlines()) == 9
    assert not (checkpoint / "model.safetensors").exists()

    before = AutoModelForCausalLM.from_pretrained(small_model).state_dict()
    trained = opened[0].model.state_dict()
    backbone = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): value
        for name, value in trained.items()
        if "lora_" not in name
    }
    assert before.keys() == backbone.keys()
    assert all(torch.equal(before[name], backbone[name]) for name in before)
    assert any(value.abs().max() > 0 for name, value in trained.items() if "lora_B" in name)

    named = json.loads((checkpoint / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == compose().model.source, "what others know the base by, not where it lies on this machine"
    base = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float32)
    loaded = cast(PreTrainedModel, PeftModel.from_pretrained(base, str(checkpoint)).eval())
    tokenizer = load_tokenizer(str(checkpoint))
    rows = json.loads((small_root / "MeetingBank" / "test.json").read_text())
    prompts = [Encoder(tokenizer, 1536, 1024).prompt(row["prompt"]) for row in rows]
    lines = (folder / "predictions" / "round8" / "MeetingBank.jsonl").read_text().splitlines()
    assert generate(loaded, tokenizer, prompts, 6, 32768) == [json.loads(line)["prediction"] for line in lines]


def test_lora_with_hft_is_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match="it changes the architecture"):
        build_strategy(compose("strategy=lora_seqft", "hft=true"))


def test_the_learning_rates() -> None:
    """Ten times as high for an adapter (HFT paper, A.3), and whatever the user says goes."""
    assert compose("model=llama2-chat-7b", "strategy=gem").training.learning_rate == 1e-5
    assert compose("model=llama2-chat-7b", "strategy=lora_seqft").training.learning_rate == 1e-4
    assert compose("strategy=lora_seqft", "training.learning_rate=0.5").training.learning_rate == 0.5


def test_an_eighth_of_the_global_batch_is_looked_at() -> None:
    assert compose("benchmark=trace", "strategy=gem").strategy.memory_batch == 16
    assert compose("training.global_batch=4", "strategy=gem").strategy.memory_batch == 1
