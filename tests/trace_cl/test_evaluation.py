"""Batched greedy answers against one argmax at a time."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from trace_cl.data.batches import Encoder
from trace_cl.errors import UserError
from trace_cl.evaluation import generate, score, summarize
from trace_cl.metrics import METRICS, macro_f1, sari
from trace_cl.records.files import read_matrix
from trace_cl.records.predictions import read_predictions
from trace_cl.tiny import CHECKPOINT
from trace_cl.training.model import load_tokenizer

TOKENIZER = load_tokenizer(str(CHECKPOINT))
PROMPTS = [
    "Hello",
    "2 + 3 = ",
    "Der Hund läuft schnell durch den Wald und",
    "今天天气",
    "def f ( x ) :",
    "a b c d e f g",
]


@torch.inference_mode()
def one_at_a_time(model: torch.nn.Module, prompt: list[int], answer_tokens: int) -> str:
    ids = torch.tensor([prompt])
    for _ in range(answer_tokens):
        token = model(input_ids=ids).logits[0, -1].argmax()
        if token == TOKENIZER.eos_token_id:
            break
        ids = torch.cat([ids, token.reshape(1, 1)], dim=1)
    return str(TOKENIZER.decode(ids[0, len(prompt) :], skip_special_tokens=True))


def test_batches_answer_what_single_prompts_answer() -> None:
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float64).eval()
    # A hub model's own defaults may ask for sampling; evaluation is greedy all the same.
    model.generation_config.do_sample, model.generation_config.temperature, model.generation_config.top_k = (
        True,
        5.0,
        50,
    )
    encoder = Encoder(TOKENIZER, 1024, 512)
    prompts = [encoder.prompt(text) for text in PROMPTS]
    expected = [one_at_a_time(model, prompt, 12) for prompt in prompts]
    for budget in (1, 60, 4096):
        assert generate(model, TOKENIZER, prompts, 12, budget) == expected


def test_an_answer_stops_at_its_length(small_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(small_model).eval()
    [answer] = generate(model, TOKENIZER, [[1, 5, 6]], 3, 4096)
    assert len(TOKENIZER(answer, add_special_tokens=False).input_ids) <= 3


def test_both_variants_are_recorded_with_the_rows_own_number() -> None:
    [first, second] = score("similarity", [4, 9], ["abc", "abd"], ["abc", "abc"], ["?", "?"])
    assert (first.index, first.scores) == (4, {"standard": 100.0, "trace_compat": 100.0})
    assert second.scores["trace_compat"] == 67
    assert round(second.scores["standard"], 3) == 66.667


def test_the_figure_of_a_task_is_the_mean_or_the_metrics_own() -> None:
    columns = (["A", "A", "A"], ["A", "A", "B"], ["?", "?", "?"])
    assert summarize("accuracy", score("accuracy", [0, 1, 2], *columns), columns[2])["standard"] == 200 / 3
    assert summarize("macro_f1", score("macro_f1", [0, 1, 2], *columns), columns[2])["standard"] == 100 * 0.8 / 2


def test_a_metric_that_loses_examples_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "odd", lambda predictions, references: [1.0])
    with pytest.raises(UserError, match="metric=odd gives 1 scores for 2 predictions"):
        score("odd", [0, 1], ["a", "b"], ["a", "b"], ["?", "?"])


def test_prompts_and_corpus_figures_reach_the_matrix(run: Callable[..., Path], small_root: Path) -> None:
    tasks = "{MeetingBank:{epochs:1,answer_tokens:6,metric:sari},FOMC:{epochs:1,metric:macro_f1}}"
    folder = run(f"benchmark.tasks={tasks}", "evaluation.zero_shot=false")
    rows = read_matrix(folder / "matrix.csv")
    lines = {
        task: read_predictions(folder / "predictions" / "round3" / f"{task}.jsonl") for task in ("MeetingBank", "FOMC")
    }

    def column(task: str, key: str) -> list[str]:
        return [line[key] for line in lines[task]]

    prompts = [row["prompt"] for row in json.loads((small_root / "MeetingBank" / "test.json").read_text())]
    scores = sari(column("MeetingBank", "prediction"), column("MeetingBank", "reference"), prompts=prompts)
    assert [line["score"] for line in lines["MeetingBank"]] == scores
    assert rows["MeetingBank"][3] == math.fsum(scores) / 4
    assert rows["FOMC"][3] == macro_f1.corpus(column("FOMC", "prediction"), column("FOMC", "reference"))
