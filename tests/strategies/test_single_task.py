"""Single-task fine-tuning: every round's model is the base model trained on one task, whatever came before."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import TASKS, Killed, killed_after

from trace_cl import rounds
from trace_cl.data.batches import Encoder, global_batches
from trace_cl.errors import UserError
from trace_cl.strategies.hft import parameters_of, select
from trace_cl.strategies.selection import Selection
from trace_cl.training.engine import Optimization
from trace_cl.training.model import load_model, load_tokenizer
from trace_cl.training.torch_engine import TorchLearner

Run = Callable[..., Path]


def test_every_round_begins_with_the_base_model(run: Run, small_model: Path, small_root: Path) -> None:
    """The first is a run of its task alone; the last one's weights are, to the byte, those of a learner driven by hand
    from the base model. By halves, where what does not learn in a round has learned before."""
    folder = run("strategy=single_task", "hft=true", method="single_task+hft")
    model = load_model(str(small_model), torch.float32)
    base = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    before, frozen = (parameters_of(model, select(model, t, 1, Selection())) for t in (2, 3))
    assert frozen - before, "there is something that round 2 had changed"
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    encoder = Encoder(load_tokenizer(str(small_model)), 1536, 1024)
    rows = json.loads((small_root / TASKS[2] / "train.json").read_text())
    examples = [encoder.example(row["prompt"], row["answer"]) for row in rows]
    learner = TorchLearner(model, Optimization(learning_rate=0.01), 32768)
    for epoch in (1, 2):
        for batch in global_batches(examples, 5, f"1/3/{TASKS[2]}/{epoch}"):
            learner.backward(batch)
            learner.step()
    learner.close()
    ours = load_file(folder / "checkpoint" / "model.safetensors")
    assert ours.keys() == base.keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(ours[name], parameter), name
        assert torch.equal(ours[name], base[name]) == (name in frozen), name

    alone = run("hft=true", f"benchmark.order=[{TASKS[0]}]", method="seqft+hft")
    first = (alone / "predictions" / "round1" / f"{TASKS[0]}.jsonl").read_bytes()
    assert (folder / "predictions" / "round3" / f"{TASKS[0]}.jsonl").read_bytes() == first
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["BWT"] == [0, 0, 0]
    assert summary["OP"] == summary["learned"]


def test_earlier_answers_that_are_not_what_was_written_are_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model that gave them is gone: who asked the one at hand would take its answers for theirs. It is refused
    before the next task is learned."""
    settings = ("strategy=single_task", "evaluation.zero_shot=false", f"benchmark.order=[{TASKS[0]},{TASKS[1]}]")
    with monkeypatch.context() as patch:
        patch.setattr(rounds.Run, "finish", killed_after(rounds.Run.finish))
        with suppress(Killed):
            run(*settings)
    [path] = tmp_path.rglob("predictions/round1/*.jsonl")
    whole = path.read_text()
    first, *others = whole.splitlines(keepends=True)
    line = json.loads(first)
    better = json.dumps(line | {"prediction": line["reference"]}) + "\n"
    moved = json.dumps(line | {"index": 7}) + "\n"
    for lines in ([], others, [first[:20], *others], [better, *others], [moved, *others]):
        path.unlink(missing_ok=True)
        if lines:
            path.write_text("".join(lines))
        with monkeypatch.context() as patch:
            patch.setattr(rounds.Run, "train", lambda *_: pytest.fail("it trains"))
            with pytest.raises(UserError) as refused:
                run(*settings)
        assert str(refused.value).startswith(f"{path} is ")
        assert "\n" not in str(refused.value)
    path.write_text(whole)
    folder = run(*settings, method="single_task")
    assert len((folder / "matrix.csv").read_text().splitlines()) == 3
