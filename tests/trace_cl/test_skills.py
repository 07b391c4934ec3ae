"""The skills that stand in for general abilities: what counts as done, and that nothing else of a run moves."""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from support import compose, results
from transformers import AutoModelForCausalLM

from trace_cl.analysis.abilities import delta, table
from trace_cl.data.batches import Encoder
from trace_cl.data.benchmark import load_data, prepare
from trace_cl.data.embedded import abilities, general, generate
from trace_cl.likelihood import written
from trace_cl.metrics import general_ability_delta, overall_ability
from trace_cl.rounds import Run as Rounds
from trace_cl.strategies.base import Example
from trace_cl.tiny import CHECKPOINT
from trace_cl.tiny.material import documents, text
from trace_cl.training.model import load_tokenizer
from trace_cl.training.ranks import Ranks

Run = Callable[..., Path]

ABILITIES = "benchmark.abilities=trace_cl.data.embedded.abilities.generate"
GENERAL = "benchmark.general=trace_cl.data.embedded.general.generate"


def exercises(ability: str, count: int) -> list[Example]:
    encoder = Encoder(load_tokenizer(str(CHECKPOINT)), total_tokens=1536, prompt_tokens=1024)
    examples = [encoder.example(row["prompt"], row["answer"]) for row in abilities.generate()[ability][:count]]
    return [Example(example.prompt, example.answer[:-1]) for example in examples]


@pytest.mark.parametrize("tokens_per_batch", [1, 500, 10**6])
def test_what_is_written_is_what_greedy_decoding_begins_with(tokens_per_batch: int) -> None:
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT).eval()
    examples = [*exercises("parts", 4), *exercises("lists", 6), *exercises("judgements", 8)]
    decoded = []
    for example in examples:
        ids = torch.tensor([example.prompt])
        answer = model.generate(ids, max_new_tokens=len(example.answer), do_sample=False)[0, ids.shape[1] :]
        decoded.append(answer.tolist() == example.answer)
    assert 0 < sum(decoded) < len(decoded)
    assert written(model, examples, tokens_per_batch, Ranks()) == decoded


def test_an_exercise_is_what_the_benchmark_gives_and_no_end_is_asked_for() -> None:
    benchmark = compose().benchmark
    encoder = Encoder(load_tokenizer(str(CHECKPOINT)), total_tokens=1536, prompt_tokens=1024)
    prepared = prepare(benchmark, load_data(benchmark, instructions=False), "test", encoder).abilities
    assert {ability: len(several) for ability, several in prepared.items()} == dict.fromkeys(abilities.generate(), 20)
    for ability, rows in abilities.generate().items():
        for row, exercise in zip(rows, prepared[ability], strict=True):
            assert encoder.tokenizer.decode(exercise.answer) == row["answer"]
            assert encoder.tokenizer.decode(exercise.prompt, skip_special_tokens=True) == row["prompt"]


def test_a_run_records_them_and_is_otherwise_what_it_was(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abilities, "_COUNT", 2)
    folder, without = run(ABILITIES), run(f"runs_dir={tmp_path / 'without'}")
    assert results(folder) == results(without)
    weights = "checkpoint/model.safetensors"
    assert (folder / weights).read_bytes() == (without / weights).read_bytes()
    records = [json.loads((folder / "rounds" / f"round{t}.json").read_text())["abilities"] for t in range(4)]
    summary = json.loads((folder / "summary.json").read_text())
    assert [summary["base_abilities"], *summary["abilities"]] == records
    assert list(records[3]) == list(abilities.generate())
    assert "| ability \\ round | base model | 1 | 2 | 3 |" in (folder / "report.md").read_text()
    assert "abilit" not in (without / "summary.json").read_text() + (without / "report.md").read_text()


@pytest.mark.parametrize("method", ["icl", "l2p", "lfpt5", "progressive_prompts", "zero_shot"])
def test_a_model_that_stays_as_it_was_is_measured_once(
    method: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With to the byte what it gives when it is measured after every round."""
    monkeypatch.setattr(general, "_COUNT", 5)
    settings = (GENERAL, f"strategy={method}", "training.learning_rate=0.3")
    asked: list[int] = []
    measure = Rounds.general

    def noting(self: Rounds) -> dict[str, Any]:
        asked.append(self.trained)
        return measure(self)

    monkeypatch.setattr(Rounds, "general", noting)
    folder = run(*settings)
    run(*settings, "evaluation.zero_shot=false", f"runs_dir={tmp_path / 'later'}")
    assert asked == [0, 1]
    monkeypatch.setattr(Rounds, "known", lambda _: {})
    anew = run(*settings, f"runs_dir={tmp_path / 'anew'}")
    losses = [
        [json.loads((each / "rounds" / f"round{t}.json").read_text())["general_loss"] for t in range(4)]
        for each in (folder, anew)
    ]
    assert losses[0] == losses[1]


def test_the_figures_by_hand() -> None:
    base, after = {"facts": 60.0, "parts": 90.0}, {"facts": 30.0, "parts": 100.0}
    assert overall_ability(after) == 65
    assert general_ability_delta(after, base) == -10
    assert delta(after, {"facts": 60.0}) is None
    shown = table({0: base, 1: after, 2: {"facts": 30.0}})
    assert shown.T["mean"].tolist() == ["75.0", "65.0", "30.0"]
    assert shown.T["ΔR"].tolist() == ["", "-10.0", "–"]
    with pytest.raises(ValueError, match="not the same abilities: parts"):
        general_ability_delta({"facts": 1.0}, base)


def test_no_exercise_was_learned_from_or_is_a_tasks() -> None:
    by_ability = abilities.generate()
    assert by_ability == abilities.generate()
    assert len(by_ability) == 9
    rows = [row for several in by_ability.values() for row in several]
    assert len({row["prompt"] for row in rows}) == len(rows) == 180
    tasks = {row["prompt"] for splits in generate().values() for split in splits.values() for row in split}
    pretraining = {text(pieces) for seed in (1, 2) for pieces in islice(documents(seed), 10_000)}
    assert not {row["prompt"] for row in rows} & tasks
    assert not {row["prompt"] + row["answer"] for row in rows} & pretraining
