"""Answers end early only where that changes no score: a model that says what it is told to, stopped and unstopped."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from trace_cl.evaluation import Generator, generate, score, settled_by
from trace_cl.metrics import METRICS
from trace_cl.tiny import CHECKPOINT
from trace_cl.training.model import load_tokenizer
from trace_cl.training.ranks import Ranks

TOKENIZER = load_tokenizer(str(CHECKPOINT))
END = TOKENIZER.eos_token_id
CAP = 24


def ids_of(text: str) -> list[int]:
    ids: list[int] = TOKENIZER(text, add_special_tokens=False).input_ids
    return ids


class Scripted(LlamaForCausalLM):
    """Answers a prompt that ends with id n with the n-th of its scripts, and then without end with blanks; as a model
    whose rows do not leave, for it does not read what it says."""

    def __init__(self, scripts: Sequence[Sequence[int]]) -> None:
        super().__init__(
            LlamaConfig(
                vocab_size=len(TOKENIZER),
                hidden_size=4,
                intermediate_size=4,
                num_hidden_layers=1,
                num_attention_heads=1,
            )
        )
        self.config.alibi = True
        self.scripts = scripts
        self.steps = 0
        self.training = False

    def generate(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:  # type: ignore[override]
        self.rows, self.said = input_ids[:, -1].tolist(), 0
        inner: Any = super().generate  # type: ignore[misc]
        return inner(input_ids=input_ids, **kwargs)

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        output = super().forward(input_ids=input_ids, **kwargs)
        output.logits = torch.zeros(len(input_ids), 1, len(TOKENIZER))
        for row, script in enumerate(self.scripts[number] for number in self.rows):
            output.logits[row, 0, script[self.said] if self.said < len(script) else BLANK] = 1
        self.said += 1
        self.steps += 1
        return output


[BLANK] = ids_of("\n")


def answers(scripts: Sequence[Sequence[int]], settled: Any = None, budget: int = 4096) -> list[str]:
    prompts = [[END, END, number][-1 - number % 3 :] for number in range(len(scripts))]
    with torch.inference_mode():
        return generate(Scripted(scripts), TOKENIZER, prompts, CAP, budget, settled=settled)


def scores(metric: str, answers: Sequence[str], references: Sequence[str]) -> list[dict[str, float]]:
    return [p.scores for p in score(metric, range(len(answers)), answers, references, ["?"] * len(answers))]


@pytest.mark.parametrize(
    ("metric", "said", "reference", "right"),
    [
        # Blanks do not count, so an answer that has only blanks after it is right; a word behind them makes it wrong.
        ("accuracy", "A" + "\n" * 40, "A", 100),
        ("accuracy", "A\n\n\n\n\n\n\n\nB", "A", 0),
        ("accuracy", "\n\n\n\n\n\n\n\nA", "A", 100),
        ("first_character", "\n\n\n\n\n\n\n\nB because", "B\nA clause", 100),
        ("first_character", "\n\n\n\n\n\n\n\nA because", "B\nA clause", 0),
    ],
)
def test_blanks_use_up_no_answer(metric: str, said: str, reference: str, right: float) -> None:
    for settled in (None, settled_by(metric, [reference])):
        [answer] = answers([[*ids_of(said), END]], settled)
        assert scores(metric, [answer], [reference])[0]["standard"] == right


def test_an_answer_ends_where_it_is_settled() -> None:
    model = Scripted([ids_of("B it is, for a reason that is long")])
    with torch.inference_mode():
        [answer] = generate(model, TOKENIZER, [[0]], CAP, 4096, settled=settled_by("accuracy", ["A"]))
    assert (answer, model.steps) == ("B", 1)


WORDS = [*ids_of("A B AB 12 是é"), *ids_of("\n"), *ids_of(" "), *ids_of("A"), *ids_of("1"), END]


@pytest.mark.parametrize("metric", [name for name in METRICS if settled_by(name, ["A"])])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_what_is_scored_is_what_the_whole_answers_score(metric: str, data: st.DataObject) -> None:
    scripts = data.draw(st.lists(st.lists(st.sampled_from(WORDS), max_size=8), min_size=1, max_size=6))
    right = st.sampled_from(["A", "B", "AB", "12", " A", "是", "1\n2"])
    references = data.draw(st.lists(right, min_size=len(scripts), max_size=len(scripts)))
    whole = answers(scripts)
    for budget in (60, 4096):
        cut = answers(scripts, settled_by(metric, references), budget)
        assert scores(metric, cut, references) == scores(metric, whole, references)


class Shelf(dict[str, list[list[int]]]):
    """Answers that are kept, and what was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def get(self, key: str) -> list[list[int]] | None:  # type: ignore[override]
        self.asked.append(key)
        return super().get(key)

    def put(self, key: str, rows: list[list[int]]) -> None:
        self[key] = rows


SCRIPTS = [[*ids_of(text), END] for text in ("A 是 one", "B two", "A", "three 12", "é")]
PROMPTS = [[END, END, number][-1 - number % 3 :] for number in range(len(SCRIPTS))]


@pytest.mark.parametrize("metric", ["accuracy", "rouge_l"])
def test_interrupted_scoring_goes_on_with_the_answers_it_has(metric: str) -> None:
    settled, shelf, model = settled_by(metric, ["A", "B"]), Shelf(), Scripted(SCRIPTS)
    arguments = (model, TOKENIZER, PROMPTS, CAP, 2 * CAP + 6)
    with torch.inference_mode():
        whole = generate(*arguments, settled=settled)
        assert generate(*arguments, settled=settled, kept=shelf) == whole
        everything, steps = dict(shelf), model.steps
        assert len(everything) == 3
        assert all(END not in row[:-1] for rows in everything.values() for row in rows)
        assert generate(*arguments, settled=settled, kept=shelf) == whole
        assert model.steps == steps  # nothing was generated again
        for lost in everything:
            del shelf[lost]
            assert generate(*arguments, settled=settled, kept=shelf) == whole
            assert shelf == everything


def test_kept_answers_are_of_these_prompts_this_length_and_this_call() -> None:
    shelf = Shelf()
    with torch.inference_mode():
        for metric, prompts, length in (
            ("rouge_l", [[0]], 8),
            ("rouge_l", [[1]], 8),
            ("rouge_l", [[0]], 9),
            ("rouge_l", [[0], [1]], 8),
            ("accuracy", [[0]], 8),
        ):
            model = Scripted(SCRIPTS)
            generate(model, TOKENIZER, prompts, length, 4096, settled=settled_by(metric, ["A"]), kept=shelf)
    assert len(set(shelf.asked)) == 5
    kept = Shelf()
    asked = Generator(Scripted(SCRIPTS), TOKENIZER, CAP, 4096, Ranks(), kept=kept)
    with torch.inference_mode():
        assert asked.generate(PROMPTS) == asked.generate(PROMPTS)
    assert len(set(kept.asked)) == 2  # the model may have changed in between


def test_answers_of_a_length_asked_for_are_whole() -> None:
    asked = Generator(Scripted(SCRIPTS), TOKENIZER, CAP, 4096, Ranks(), settled=settled_by("first_character", ["A"]))
    with torch.inference_mode():
        assert asked.generate(PROMPTS[1:2]) == ["B"]
        assert asked.generate(PROMPTS[1:2], tokens=CAP) == ["B two"]


class OneRank(Ranks):
    """A rank whose neighbour has `others` groups to answer."""

    others = 0

    def gather(self, values: Any) -> Any:
        return [values, [self.others]]


def test_in_step_a_rank_skips_what_it_has_and_goes_on_as_long_as_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    model, shelf = Scripted([*SCRIPTS, *[[END]] * (len(TOKENIZER) - len(SCRIPTS))]), Shelf()
    inner: Any = model.generate

    def counted(input_ids: torch.Tensor, synced_gpus: bool, **kwargs: Any) -> Any:
        calls.append(len(input_ids))
        assert synced_gpus
        return inner(input_ids=input_ids, synced_gpus=False, **kwargs)

    monkeypatch.setattr(model, "generate", counted)
    ranks = OneRank()
    with torch.inference_mode():
        whole = generate(model, TOKENIZER, PROMPTS, CAP, 2 * CAP + 6, ranks, kept=shelf)
        assert len(calls) == 3
        calls.clear()
        del shelf[next(iter(shelf))]
        monkeypatch.setattr(OneRank, "others", 2)
        assert generate(model, TOKENIZER, PROMPTS, CAP, 2 * CAP + 6, ranks, kept=shelf) == whole
    assert len(calls) == 2  # one of its own, one to keep in step
    assert len(shelf) == 3
