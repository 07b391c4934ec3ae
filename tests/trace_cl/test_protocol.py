"""What the strategy protocol promises beyond the shipped strategies, in whole runs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import TASKS

from trace_cl.data.batches import Encoder
from trace_cl.errors import UserError
from trace_cl.evaluation import generate
from trace_cl.training.model import load_model, load_tokenizer

Run = Callable[..., Path]


def test_weights_can_be_changed_after_a_round(run: Run, small_model: Path, tmp_path: Path) -> None:
    plain = run("benchmark.order=[FOMC]")
    merged = run("strategy._target_=protocol.Merging", "benchmark.order=[FOMC]", method="merging")
    before = load_file(small_model / "model.safetensors")
    learned = load_file(plain / "checkpoint" / "model.safetensors")
    ours = load_file(merged / "checkpoint" / "model.safetensors")
    for name, value in ours.items():
        torch.testing.assert_close(value, (before[name] + learned[name]) / 2, rtol=0, atol=1e-7)
        assert not torch.equal(value, learned[name])


def test_what_learns_can_change_within_a_round(run: Run, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trace_cl.training.torch_engine import TorchLearner

    moved = []
    step = TorchLearner.step

    def watched(self: TorchLearner) -> float:
        before = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        norm = step(self)
        after = self.model.named_parameters()
        moved.append({name.split(".")[2] for name, p in after if not torch.equal(p, before[name])})
        return norm

    monkeypatch.setattr(TorchLearner, "step", watched)
    run("strategy._target_=protocol.LayerByLayer", method="layer_by_layer")
    assert len(moved) > 6
    first_round = moved[: 5 * -(-12 // 5)]
    assert first_round == [{"0"}, {"1"}] * 7 + [{"0"}]


@pytest.mark.parametrize("model_dtype", ["fp32", "bf16"])
def test_what_stops_learning_is_what_it_was(run: Run, small_model: Path, model_dtype: str) -> None:
    """The embedding and the head never learn here; all is in the model's own dtype when the round is over."""
    folder = run("strategy._target_=protocol.LayerByLayer", f"model.dtype={model_dtype}", method="layer_by_layer")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[model_dtype]
    before = load_file(small_model / "model.safetensors")
    for name, value in load_file(folder / "checkpoint" / "model.safetensors").items():
        assert value.dtype == dtype
        assert torch.equal(value, before[name].to(dtype)) == ("layers." not in name), name


def test_prompts_can_be_changed_when_answering(run: Run, small_model: Path, small_root: Path) -> None:
    folder = run("strategy._target_=protocol.Demonstrating", "benchmark.order=[FOMC]", method="demonstrating")
    tokenizer = load_tokenizer(str(small_model))
    encoder = Encoder(tokenizer, 1536, 1024)
    splits = {s: json.loads((small_root / "FOMC" / f"{s}.json").read_text()) for s in ("train", "test")}
    shown = encoder.example(splits["train"][0]["prompt"], splits["train"][0]["answer"])
    prompts = [[*shown.prompt, *shown.answer, *encoder.prompt(row["prompt"])] for row in splits["test"]]
    model = load_model(str(folder / "checkpoint"), torch.float32)
    lines = (folder / "predictions" / "round1" / "FOMC.jsonl").read_text().splitlines()
    answers = [json.loads(line)["prediction"] for line in lines]
    assert answers == generate(model, tokenizer, prompts, 8, 32768)


def test_a_run_may_train_nothing_at_all(run: Run) -> None:
    folder = run("strategy._target_=protocol.ZeroShot", method="zero_shot")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["complete"]
    assert summary["OP"][-1] == sum(summary["zero_shot"].values()) / len(TASKS)
    assert not (folder / "checkpoint").exists()


def test_a_round_is_begun_once_and_can_be_asked_in(run: Run) -> None:
    """By a strategy with an `__init__` of its own; planning, which comes first, begins nothing."""
    folder = run("strategy._target_=protocol.Counting", "+strategy.beginning=40", method="counting")
    told = [json.loads((folder / "rounds" / f"round{t}.json").read_text())["strategy"] for t in (1, 2, 3)]
    assert [round["begun"] for round in told] == [41, 42, 43]
    assert all(len(round["said"]) == 1 for round in told)


def test_what_an_engine_cannot_serve_is_refused_before_anything_is_loaded(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trace_cl.run.load_data", lambda *_: pytest.fail("the data was loaded"))
    deepspeed = ("engine=deepspeed", "engine.processes=1")
    with pytest.raises(UserError, match="changes within a round which parameters learn"):
        run("strategy._target_=protocol.LayerByLayer", *deepspeed)
    with pytest.raises(UserError, match=r"engine\.offload_optimizer=true leaves this strategy no gradients or weights"):
        run("strategy._target_=protocol.Merging", *deepspeed, "engine.offload_optimizer=true")
    with pytest.raises(UserError, match=r"engine\.gather=false leaves no device a whole model"):
        run("strategy=lwf", *deepspeed, "engine.gather=false")


def test_a_name_that_the_model_has_not_is_refused_and_so_is_nothing_at_all(run: Run) -> None:
    with pytest.raises(UserError, match=r"names parameters that LlamaForCausalLM has not: model\.head$"):
        run("strategy._target_=protocol.Naming", "+strategy.names=[model.head]")
    with pytest.raises(UserError, match="leaves nothing to learn in round 1"):
        run("strategy._target_=protocol.Naming", "+strategy.names=[]")
