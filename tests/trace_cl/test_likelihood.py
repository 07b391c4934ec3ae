"""The loss on texts against transformers' own logits, and that measuring it changes nothing of a run."""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from support import TASKS, FakeTask, results
from transformers import AutoModelForCausalLM

from trace_cl.analysis.general import general_loss, with_general_loss
from trace_cl.analysis.text import table
from trace_cl.data.batches import Encoder
from trace_cl.data.embedded import general, generate
from trace_cl.likelihood import mean_loss
from trace_cl.strategies.base import Example
from trace_cl.tiny import CHECKPOINT
from trace_cl.tiny.material import documents, text
from trace_cl.training.model import load_tokenizer
from trace_cl.training.ranks import Ranks

Run = Callable[..., Path]

GENERAL = "benchmark.general=trace_cl.data.embedded.general.generate"


def by_transformers(folder: Path, examples: list[Example]) -> float:
    """The mean over all answer tokens, one example and one token at a time, in float64, by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    total = 0.0
    for example in examples:
        ids = torch.tensor([[*example.prompt, *example.answer]])
        with torch.no_grad():
            likely = model(input_ids=ids).logits[0].log_softmax(-1)
        total -= sum(likely[place - 1, ids[0, place]].item() for place in range(len(example.prompt), len(example)))
    return total / sum(len(example.answer) for example in examples)


@pytest.mark.parametrize("tokens_per_batch", [1, 60, 10**6])
def test_it_is_transformers_own_however_it_is_batched(small_model: Path, tokens_per_batch: int) -> None:
    draw = Random(0)
    examples = [Example(e.prompt, e.answer * draw.randint(1, 4)) for e in FakeTask("A", 1).train]
    model = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float64).eval()
    loss = mean_loss(model, examples, tokens_per_batch, Ranks())
    assert loss == pytest.approx(by_transformers(small_model, examples), rel=1e-12)


@pytest.fixture
def few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(general, "_COUNT", 30)


def general_text() -> list[Example]:
    encoder = Encoder(load_tokenizer(str(CHECKPOINT)), total_tokens=1536, prompt_tokens=1024)
    return [encoder.example(row["prompt"], row["answer"]) for row in general.generate()]


@pytest.mark.usefixtures("few_texts")
def test_a_run_records_it_and_is_otherwise_what_it_was(run: Run, tmp_path: Path, small_model: Path) -> None:
    folder, without = run(GENERAL), run(f"runs_dir={tmp_path / 'without'}")
    assert results(folder) == results(without)
    weights = "checkpoint/model.safetensors"
    assert (folder / weights).read_bytes() == (without / weights).read_bytes()
    records = [json.loads((folder / "rounds" / f"round{t}.json").read_text()) for t in range(4)]
    losses = [record["general_loss"] for record in records]
    assert losses[0] == pytest.approx(by_transformers(small_model, general_text()), rel=1e-5)
    assert losses[3] == pytest.approx(by_transformers(folder / "checkpoint", general_text()), rel=1e-5)
    assert len(set(losses)) == 4
    summary = json.loads((folder / "summary.json").read_text())
    assert [summary["base_general_loss"], *summary["general_loss"]] == losses
    shown = (folder / "report.md").read_text()
    assert f"| loss on general text | {losses[1]:.3f} | {losses[2]:.3f} | {losses[3]:.3f} |" in shown
    assert f"the base model's is {losses[0]:.3f}." in shown
    assert shown.partition("| loss on")[0] == (without / "report.md").read_text().partition("\n\nScores run")[0] + "\n"
    assert "general" not in (without / "summary.json").read_text() + (without / "report.md").read_text()


@pytest.mark.usefixtures("few_texts")
def test_a_tasks_prompts_are_no_part_of_the_model(run: Run) -> None:
    """The text is read without any of them: the model itself is what it was."""
    folder = run(GENERAL, "strategy=progressive_prompts", "strategy.prompt_tokens=3")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["general_loss"] == [summary["base_general_loss"]] * 3


def test_rounds_of_a_run_that_an_earlier_version_began_have_none() -> None:
    rounds: list[dict[str, Any]] = [{"round": 1}, {"round": 2, "general_loss": 0.5}, {"round": 3, "general_loss": None}]
    summary = general_loss({}, rounds)
    assert summary == {"base_general_loss": None, "general_loss": [None, 0.5, None]}
    frame = with_general_loss(table([[1.0], [1.0, 2.0], [1.0, 2.0, 3.0]], TASKS), summary)
    assert frame.T["loss on general text"].tolist() == ["–", "0.500", "–"]
    assert general_loss({}, rounds[:1]) == {}


def test_general_text_is_none_that_the_model_or_a_task_has_learned_from() -> None:
    rows = general.generate()
    assert rows == general.generate()
    assert len(rows) == 200
    tasks = {row["prompt"] for splits in generate().values() for split in splits.values() for row in split}
    assert not {row["prompt"] for row in rows} & tasks
    whole = {row["prompt"] + row["answer"] for row in rows}
    pretraining = {text(pieces) for seed in (1, 2) for pieces in islice(documents(seed), 10_000)}
    longer = {document for document in whole if len(document) > 60}  # an echo of two words is soon drawn again
    assert len(longer) > 150
    assert not longer & pretraining
