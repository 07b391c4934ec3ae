"""In-context learning: what is shown before a text, from where, how much of it, and where an answer ends."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support import Mute, results
from transformers import LlamaConfig, LlamaForCausalLM

from trace_cl.evaluation import Generator
from trace_cl.strategies.base import Example, Round
from trace_cl.strategies.icl import ICL

START, END, SEPARATOR = 1, 2, [3, 4]


@dataclass
class Labelled:
    """A task of prompts of ten tokens, three of them its own, each answered by one of so many labels, or of its own."""

    labels: int
    rows: int = 60
    name: str = "labelled"
    epochs: int = 1
    answer_tokens: int = 8
    train: list[Example] = field(default_factory=list)

    def __post_init__(self) -> None:
        for row in range(self.rows):
            # Half of them have the first label: drawn without care the demonstrations would be mostly of that one.
            label = 0 if row % 2 else row // 2 % self.labels
            self.train.append(Example([START, *[9] * 6, 100 + row, 7, 8], [50 + label, END]))


@dataclass
class Echo(Mute):
    """Says what it is told to, and remembers what it was asked."""

    says: str = "A"
    asked: list[list[int]] = field(default_factory=list)

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int | None = None) -> list[str]:
        self.asked += [list(prompt) for prompt in prompts]
        return [self.says for _ in prompts]

    def encode(self, text: str) -> list[int]:
        assert text == "\n\n"
        return SEPARATOR


TEXT = [START, 20, 21, 22]


def built(task: Labelled, seed: int = 1, positions: int = 2048, **settings: int) -> ICL:
    """The strategy with a model of so many positions, whose weights do not matter."""
    sizes: dict[str, Any] = {"vocab_size": 200, "hidden_size": 2, "intermediate_size": 2, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, num_attention_heads=1, max_position_embeddings=positions, bos_token_id=START)
    strategy = ICL(**settings)
    strategy.build(lambda _: LlamaForCausalLM(config), None, [Round(seed, [task], [])])
    return strategy


def shown(task: Labelled, text: list[int] = TEXT, seed: int = 1, **settings: int) -> list[list[int]]:
    """The demonstrations before a text, each without its separator; that all else is in its place is looked at here."""
    echo = Echo()
    built(task, seed, **settings).answer(task, [text], echo)
    [[first, *asked]] = echo.asked
    assert first == START
    assert asked[len(asked) - len(text) + 1 :] == text[1:]
    before = asked[: len(asked) - len(text) + 1]
    assert START not in before, "one start token, in front of all"
    assert END not in before
    pieces = [before[at : at + 12] for at in range(0, len(before), 12)]
    assert all(piece[-2:] == SEPARATOR for piece in pieces)
    return [piece[:-2] for piece in pieces]


def by_label(demonstrations: Sequence[Sequence[int]]) -> Counter[int]:
    return Counter(each[-1] - 50 for each in demonstrations)


def test_labels_are_balanced_and_other_answers_all_different() -> None:
    assert by_label(shown(Labelled(3))) == {0: 2, 1: 2, 2: 2}
    for seed in range(5):
        assert sorted(by_label(shown(Labelled(4), seed=seed)).values()) == [1, 1, 2, 2]
    assert list(by_label(shown(Labelled(30))).values()) == [1] * 6


def test_they_are_training_examples_of_the_task_drawn_by_the_seed() -> None:
    task = Labelled(3)
    once, again, other = shown(task), shown(task), shown(task, seed=2)
    assert once == again != other
    assert len({tuple(each) for each in once}) == 6
    train = [[*example.prompt[1:], *example.answer[:-1]] for example in task.train]
    assert all(each in train for each in once)


def test_the_text_that_is_asked_is_never_shown_with_its_answer() -> None:
    """Whole, and where what is learned was cut to less on its left than what is asked."""
    task = Labelled(2, rows=2)
    for example, other in zip(task.train, reversed(task.train), strict=True):
        for text in (example.prompt, [START, 5, 5, *example.prompt[1:]]):
            assert shown(task, text) == [[*other.prompt[1:], *other.answer[:-1]]]
    repeated = Labelled(2, rows=2)
    repeated.train *= 5
    assert len(shown(repeated)) == 2


@pytest.mark.parametrize(("room", "count"), [(4 + 12 * 6, 6), (4 + 12 * 6 - 1, 5), (4 + 12, 1), (4 + 11, 0), (2, 0)])
def test_they_leave_the_text_its_room(room: int, count: int) -> None:
    assert len(shown(Labelled(30), prompt_tokens=room)) == count
    assert len(shown(Labelled(30), positions=room + 8)) == count, "and the answer its own"


def test_one_too_long_is_passed_over_for_the_next_of_its_label() -> None:
    task = Labelled(3)
    task.train = [
        Example([START, *[9] * 90, *example.prompt[1:]], example.answer) if row % 4 else example
        for row, example in enumerate(task.train)
    ]
    assert by_label(shown(task, prompt_tokens=100)) == {0: 2, 1: 2, 2: 2}


def test_an_answer_ends_where_the_next_demonstration_would_begin() -> None:
    task, says = Labelled(3), "A\nfor good reasons\n\nText: and so on\n\nB"
    assert built(task).answer(task, [TEXT], Echo(says)) == ["A\nfor good reasons"]
    assert built(task, demonstrations=0).answer(task, [TEXT], Echo(says)) == [says], "none was shown"


def test_without_demonstrations_it_is_zero_shot_byte_for_byte(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, lengths = "benchmark.order=[FOMC]", list[int]()
    generate = Generator.generate

    def noting(self: Generator, prompts: Sequence[Sequence[int]], tokens: int | None = None) -> list[str]:
        lengths.append(min(map(len, prompts)))
        return generate(self, prompts, tokens)

    monkeypatch.setattr(Generator, "generate", noting)
    base = results(run("strategy=zero_shot", one, method="zero_shot"))
    assert results(run("strategy=icl", "strategy.demonstrations=0", one, method="icl")) == base
    assert len(set(lengths)) == 1
    run("strategy=icl", one, method="icl")
    before, after = lengths[-2:]
    assert before == lengths[0], "round 0 is the base model's, as it is"
    assert after > 3 * before


@pytest.mark.parametrize("setting", ["demonstrations=-1", "prompt_tokens=0"])
def test_a_wrong_value_names_its_key(setting: str) -> None:
    key, _, value = setting.partition("=")
    with pytest.raises(ValueError, match=rf"strategy\.{setting}"):
        ICL(**{key: int(value)})
