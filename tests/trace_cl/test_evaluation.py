"""Batched greedy answers against one argmax at a time."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from trace_cl.data.batches import Encoder
from trace_cl.errors import UserError
from trace_cl.evaluation import Draws, generate, guessing, sample, score, summarize
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


IDS = [Encoder(TOKENIZER, 1536, 1024).prompt(text) for text in PROMPTS]


@pytest.fixture(scope="module")
def greedy() -> list[str]:
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float64).eval()
    return [one_at_a_time(model, prompt, 12) for prompt in IDS]


@torch.inference_mode()
def one_at_a_time(model: torch.nn.Module, prompt: list[int], answer_tokens: int) -> str:
    ids = torch.tensor([prompt])
    for _ in range(answer_tokens):
        token = model(input_ids=ids).logits[0, -1].argmax()
        if token == TOKENIZER.eos_token_id:
            break
        ids = torch.cat([ids, token.reshape(1, 1)], dim=1)
    return str(TOKENIZER.decode(ids[0, len(prompt) :], skip_special_tokens=True))


def test_of_one_token_each_what_is_drawn_is_the_greedy_answer(greedy: list[str]) -> None:
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float64).eval()
    rows = sample(model, TOKENIZER, IDS, range(len(IDS)), 12, 1, 4096)
    assert [TOKENIZER.decode(row, skip_special_tokens=True) for row in rows] == greedy


def test_draws_follow_the_probabilities_of_the_likeliest_tokens() -> None:
    """Frequencies against the probabilities that the logits were made from, to four standard deviations."""
    draws, wanted = 10_000, [0.9, 0.07, 0.03]
    logits = torch.tensor([0.03, 0.001, 0.9, 0.0, 0.07]).log().expand(draws, -1)
    drawn = Draws(range(draws), 3)(torch.zeros(draws, 1), logits).argmax(dim=-1).tolist()
    assert set(drawn) == {0, 2, 4}
    for token, p in zip((2, 4, 0), wanted, strict=True):
        assert abs(drawn.count(token) - draws * p) < 4 * math.sqrt(draws * p * (1 - p))


def test_what_is_drawn_depends_on_the_prompt_and_its_seed_alone() -> None:
    """Not on the rows beside it, nor on the common stream."""
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float64).eval()
    rows = sample(model, TOKENIZER, IDS, range(len(IDS)), 12, 64, 4096)
    torch.manual_seed(7)
    assert sample(model, TOKENIZER, IDS, range(len(IDS)), 12, 64, 1) == rows
    assert sample(model, TOKENIZER, IDS[::-1], range(len(IDS))[::-1], 12, 64, 60) == rows[::-1]
    assert sample(model, TOKENIZER, IDS, range(1, 1 + len(IDS)), 12, 64, 4096) != rows
    assert all(TOKENIZER.eos_token_id not in row[:-1] for row in rows)


def test_batches_answer_what_single_prompts_answer() -> None:
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float64).eval()
    expected = [one_at_a_time(model, prompt, 12) for prompt in IDS]
    for budget in (1, 60, 4096):
        assert generate(model, TOKENIZER, IDS, 12, budget) == expected


def test_equal_prompts_are_answered_once_each_at_its_place(greedy: list[str]) -> None:
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float64).eval()
    rows: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    places = [0, 2, 0, 1, 2, 0]
    answers = generate(model, TOKENIZER, [IDS[place] for place in places], 12, 4096)
    assert answers == [greedy[place] for place in places]
    assert max(rows) == 3


@pytest.mark.parametrize("guessed", [False, True], ids=["", "guessed"])
def test_an_answer_ends_with_the_token_that_settles_it(guessed: bool, greedy: list[str]) -> None:
    """Beside others that go on; also where it was foreseen whole."""
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float64).eval()
    whole = [TOKENIZER(answer, add_special_tokens=False).input_ids for answer in greedy]
    assert [TOKENIZER.decode(ids) for ids in whole] == greedy

    def settled(text: str) -> bool:
        return len(text) >= 5 and text[0] != greedy[1][0]

    expected = []
    for ids in whole:
        texts = [str(TOKENIZER.decode(ids[: n + 1])) for n in range(len(ids))]
        expected.append(next((text for text in texts if settled(text.rstrip("\ufffd"))), texts[-1]))
    assert 0 < sum(text != answer for text, answer in zip(expected, greedy, strict=True)) < len(greedy)
    guess = guessing(IDS, whole) if guessed else None
    assert generate(model, TOKENIZER, IDS, 12, 4096, settled=settled, guess=guess) == expected


def test_a_guess_is_found_whatever_stands_before_the_prompt(greedy: list[str]) -> None:
    """With it an answer takes one pass, even of a prompt that a strategy put something before; a wrong one none more
    than no guess."""
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float64).eval()
    passes: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda module, inputs: passes.append(inputs[0].shape[1]))
    before = [IDS[0][0], 40, 41]
    asked = [[*before, *prompt[1:]] for prompt in IDS]
    answers = generate(model, TOKENIZER, asked, 12, 4096)
    assert answers != greedy
    without, said = len(passes), [TOKENIZER(answer, add_special_tokens=False).input_ids for answer in answers]
    assert [TOKENIZER.decode(ids) for ids in said] == answers
    passes.clear()
    assert generate(model, TOKENIZER, asked, 12, 4096, guess=guessing(IDS, said)) == answers
    assert len(passes) == 1 < without
    passes.clear()
    assert generate(model, TOKENIZER, asked, 12, 4096, guess=guessing(IDS, said[::-1])) == answers
    assert 1 < len(passes) <= without


HOSTILE = {
    "do_sample": True,
    "temperature": 5.0,
    "top_k": 50,
    "top_p": 0.5,
    "min_p": 0.9,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1,
    "repetition_penalty": 5.0,
    "encoder_repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 1,
    "bad_words_ids": [[token] for token in range(20, 200)],
    "suppress_tokens": list(range(20, 200)),
    "begin_suppress_tokens": list(range(200, 400)),
    "sequence_bias": [[[30], 100.0]],
    "forced_bos_token_id": 33,
    "forced_eos_token_id": 34,
    "exponential_decay_length_penalty": (1, 9.0),
    "min_length": 500,
    "min_new_tokens": 12,
    "max_length": 3,
    "max_time": 1e-9,
    "stop_strings": ["e", " "],
    "guidance_scale": 9.0,
    "watermarking_config": {"bias": 50.0},
    "num_beams": 3,
    "early_stopping": True,
    "length_penalty": -5.0,
    "num_return_sequences": 2,
    "num_beam_groups": 3,
    "diversity_penalty": 9.0,
    "penalty_alpha": 0.9,
    "dola_layers": "high",
    "prompt_lookup_num_tokens": 3,
    "assistant_early_exit": 1,
    "token_healing": True,
    "cache_implementation": "paged",
    "use_cache": False,
    "prefill_chunk_size": 1,
    "output_scores": True,
    "return_dict_in_generate": True,
    "renormalize_logits": True,
    "remove_invalid_values": True,
    "pad_token_id": 40,
    "bos_token_id": 41,
    "decoder_start_token_id": 42,
}
"""What a hub model's generation configuration can ask for, every one to do harm."""


@pytest.mark.parametrize("adapted", [False, True], ids=["model", "adapter"])
def test_nothing_of_the_hubs_generation_configuration_reaches_an_answer(adapted: bool, greedy: list[str]) -> None:
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float64).eval()
    own = model.generation_config
    for key, value in HOSTILE.items():
        setattr(own, key, value)
    asked: Any = model
    if adapted:
        asked = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    for _ in range(2):
        assert generate(asked, TOKENIZER, IDS, 12, 60) == greedy
    assert model.generation_config is own  # it is saved with the checkpoint
    assert {key: getattr(own, key) for key in HOSTILE} == HOSTILE


def test_no_single_key_of_it_does(greedy: list[str]) -> None:
    """One may undo another where all are set, or end generation before it comes to bear."""
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float64).eval()
    expected = [one_at_a_time(model, prompt, 4) for prompt in IDS[:2]]
    for key, value in HOSTILE.items():
        setattr(model.generation_config, key, value)
        assert generate(model, TOKENIZER, IDS[:2], 4, 60) == expected, key
        setattr(model.generation_config, key, None)


def test_a_model_that_fails_to_answer_has_its_generation_configuration_again() -> None:
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT).eval()
    own = model.generation_config
    with pytest.raises(IndexError):
        generate(model, TOKENIZER, [[10**6]], 3, 60)
    assert model.generation_config is own


def test_every_end_token_that_the_model_knows_ends_an_answer(greedy: list[str]) -> None:
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float64).eval()
    for ends in (TOKENIZER.eos_token_id, [TOKENIZER.eos_token_id, 9**9], None):
        model.generation_config.eos_token_id = ends
        assert generate(model, TOKENIZER, IDS, 12, 60) == greedy
    last = TOKENIZER(greedy[0], add_special_tokens=False).input_ids[2]
    model.generation_config.eos_token_id = [last]
    [answer] = generate(model, TOKENIZER, IDS[:1], 12, 60)
    assert TOKENIZER(answer, add_special_tokens=False).input_ids[-1] == last
    assert len(answer) < len(greedy[0])


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
