"""The loss on texts against transformers' own logits, and that measuring it changes nothing of a run."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from support import TASKS, FakeTask, results
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from trace_cl import run as runner
from trace_cl.analysis.losses import general_loss, with_general_loss
from trace_cl.analysis.text import table
from trace_cl.data.batches import Encoder
from trace_cl.data.embedded import general, generate
from trace_cl.evaluation import Generator
from trace_cl.likelihood import Unforeseen, mean_loss, reference_loss
from trace_cl.strategies.base import Adaptable, Example
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


@dataclass
class Asked:
    """Notes what a strategy asks."""

    answerer: Generator
    prompts: list[Sequence[int]] = field(default_factory=list)

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int | None = None) -> list[str]:
        self.prompts += prompts
        return [""] * len(prompts)

    def encode(self, text: str) -> list[int]:
        return self.answerer.encode(text)


def by_cross_entropy(model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> float:
    """PyTorch's own, over the whole logits, one example at a time."""
    total = 0.0
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
        predicted = logits[len(prompt) - 1 : -1].double()
        total += cross_entropy(predicted, torch.tensor(answer), reduction="sum").item()
    return total / sum(map(len, answers))


def losses_of(folder: Path) -> list[dict[str, float | None]]:
    """By round, the base model's first; the fixture's three tasks."""
    records = [json.loads((folder / "rounds" / f"round{t}.json").read_text()) for t in range(4)]
    return [record.get("reference_loss", {}) for record in records]


@pytest.mark.parametrize(
    "settings",
    [
        ("strategy=seqft", "training.tokens_per_batch=50"),
        ("strategy=icl", "strategy.demonstrations=2"),
        ("strategy=progressive_prompts", "strategy.prompt_tokens=3"),
        ("strategy=p_tuning", "strategy.prefix_tokens=3"),
        ("strategy=lfpt5", "strategy._target_=protocol.Babbling", "strategy.samples=2"),
    ],
    ids=lambda settings: settings[0],
)
def test_the_references_loss_is_that_of_the_model_as_it_answers(
    settings: tuple[str, ...], run: Run, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind whatever the strategy puts before a prompt, with whatever it does to the model; FOMC's references, which
    may have one token, without their ends."""
    runs: list[runner.Run] = []
    report = runner.Run.report
    monkeypatch.setattr(runner.Run, "report", lambda self, *rest: runs.append(self) or report(self, *rest))  # type: ignore[func-returns-value]
    losses = losses_of(run(*settings, "benchmark.tasks.FOMC.answer_tokens=1"))
    going = runs[-1]
    end = going.tokenizer.eos_token_id
    base = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float32).eval()
    assert [list(of_round) for of_round in losses] == [list(TASKS), *(list(TASKS[:t]) for t in (1, 2, 3))]
    for task in going.benchmark.tasks:
        ids = [going.tokenizer(text, add_special_tokens=False).input_ids for text in task.references]
        answers = [each if task.name == "FOMC" else [*each, end] for each in ids]
        asked = Asked(going.answerer(task))
        going.strategy.answer(task, task.prompts, asked)  # type: ignore[arg-type]
        assert losses[3][task.name] == pytest.approx(by_cross_entropy(going.model, asked.prompts, answers), rel=1e-5)
        if "strategy=p_tuning" not in settings:  # whose prefix, as it begins, is in the model already
            assert losses[0][task.name] == pytest.approx(by_cross_entropy(base, task.prompts, answers), rel=1e-5)


def test_one_that_cannot_be_told_is_left_out(run: Run) -> None:
    """Where the model is adapted to each prompt, and would have to be once more."""
    folder = run("strategy=mbpa", "strategy.steps=1", "strategy.neighbours=2")
    base, *rounds = losses_of(folder)
    assert list(base) == list(TASKS)
    assert rounds == [{}, {}, {}]
    assert "| FOMC | " in (folder / "report.md").read_text().partition("## Loss of the references")[2]


def test_answers_that_are_taken_over_take_their_loss_along(run: Run) -> None:
    """The models that gave them are gone."""
    _, first, second, third = losses_of(run("strategy=single_task"))
    assert first["C-STANCE"] == second["C-STANCE"] == third["C-STANCE"]
    assert second["FOMC"] == third["FOMC"]
    assert len(set(third.values())) == 3


def test_without_it_a_run_is_what_it_was_and_lies_where_it_lay(run: Run) -> None:
    folder = run("evaluation.reference_loss=false", "benchmark.order=[FOMC]")
    assert "reference_loss" not in (folder / "rounds" / "round1.json").read_text()
    assert "Loss of the references" not in (folder / "report.md").read_text()
    before = results(folder)
    assert run("benchmark.order=[FOMC]") == folder, "one that was begun without it may go on with it"
    assert results(folder) == before


def test_what_is_no_number_is_none(small_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float64).eval()
    model.lm_head.weight.data.fill_(math.nan)
    assert mean_loss(model, FakeTask("A", 1).train, 100, Ranks()) is None


PROMPTS = [[1, 5, 6], [1, 7]]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ([PROMPTS], True),
        ([[[8, *prompt] for prompt in PROMPTS]], True),
        ([[[1, 8, 9, 5, 6], [1, 8, 9, 7]]], True),
        ([], False),
        ([PROMPTS, PROMPTS], False),
        ([PROMPTS[:1], PROMPTS[1:]], False),
        ([PROMPTS[::-1]], False),
        ([[[1, 5, 6, 8], [1, 7, 8]]], False),
    ],
)
def test_a_loss_is_told_only_where_each_prompt_is_asked_once_and_in_order(
    asked: list[list[list[int]]], told: bool, small_model: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float64).eval()
    answerer = Generator(model, load_tokenizer(str(small_model)), 8, 100, Ranks())

    def ask(prompts: Sequence[list[int]], learner: Adaptable) -> None:
        for each in asked:
            assert learner.generate(each) == [""] * len(each)

    if told:
        answers = [[*answerer.encode(text), answerer.tokenizer.eos_token_id] for text in "AB"]
        loss = reference_loss(ask, PROMPTS, ["A", "B"], answerer)
        assert loss == pytest.approx(by_cross_entropy(model, asked[0], answers), rel=1e-9)
    else:
        with pytest.raises(Unforeseen):
            reference_loss(ask, PROMPTS, ["A", "B"], answerer)
