"""MbPA++: its keys and neighbours against brute force, and which examples are replayed and adapted to."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import FakeTask, Mute
from transformers import LlamaForCausalLM, PreTrainedModel

from trace_cl.strategies.base import Answerer, Example, Phase, Round
from trace_cl.strategies.mbpa import MbPA, key_of, nearest
from trace_cl.training.engine import Optimization
from trace_cl.training.torch_engine import TorchLearner

TASKS = [FakeTask("z", 0, epochs=2), FakeTask("y", 1, epochs=3), FakeTask("x", 2, epochs=2)]
ROUNDS = [Round(1, TASKS[:t], []) for t in (1, 2, 3)]


@pytest.fixture
def base(small_model: Path) -> PreTrainedModel:
    loaded: PreTrainedModel = LlamaForCausalLM.from_pretrained(small_model)
    loaded.eval()
    return loaded


def ids(example: Example) -> tuple[int, ...]:
    return (*example.prompt, -1, *example.answer)


def learned(small_model: Path, rounds: int = 2, **settings: float) -> MbPA:
    """A strategy that has ended so many rounds, of a model that has moved away from the base."""

    def load(folder: Path | None) -> PreTrainedModel:
        model: PreTrainedModel = LlamaForCausalLM.from_pretrained(folder or small_model)
        model.eval()
        return model

    strategy = MbPA(**settings)  # type: ignore[arg-type]
    model = strategy.build(load, None, ROUNDS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    learner = TorchLearner(model, Optimization(learning_rate=1e-2), 4096, strategy.loss)
    for round in ROUNDS[:rounds]:
        strategy.begin_round(round, learner)
        strategy.end_round(round, learner)
    learner.close()
    return strategy


def test_a_key_is_the_mean_of_the_last_hidden_states(base: PreTrainedModel) -> None:
    prompt = TASKS[0].train[0].prompt
    hidden = base(input_ids=torch.tensor([prompt]), output_hidden_states=True).hidden_states[-1][0]
    expected = torch.stack([hidden[token] for token in range(len(prompt))]).mean(dim=0)
    torch.testing.assert_close(key_of(base, prompt), expected.detach())


def test_texts_that_begin_alike_have_keys_of_their_own(base: PreTrainedModel) -> None:
    """The hidden state of the first token, which TRACE's code takes, is the same for all of them."""
    texts = [[1, 5, 6], [1, 7, 8], [1, 9, 9, 9]]
    keys = [key_of(base, text) for text in texts]
    assert all((one - other).norm() > 1e-3 for n, one in enumerate(keys) for other in keys[:n])
    firsts = [base.get_decoder()(input_ids=torch.tensor([text])).last_hidden_state[0, 0] for text in texts]
    for first in firsts[1:]:
        torch.testing.assert_close(first, firsts[0])


def test_neighbours_are_those_of_brute_force() -> None:
    torch.manual_seed(0)
    keys = torch.randn(40, 6)
    keys[17] = keys[3]
    for key in (*torch.randn(5, 6), keys[3]):
        distances = [sum((a - b) ** 2 for a, b in zip(row, key.tolist(), strict=True)) for row in keys.tolist()]
        assert nearest(keys, key, 7) == sorted(range(40), key=distances.__getitem__)[:7]
    assert nearest(keys, keys[3], 2) == [3, 17]
    assert len(nearest(keys, keys[3], 100)) == 40


def test_the_memory_is_under_the_base_models_keys(small_model: Path, base: PreTrainedModel) -> None:
    strategy = learned(small_model, rounds=1, stored=0.5)
    examples = strategy.memories["z"]
    assert len({ids(e) for e in examples} & {ids(e) for e in TASKS[0].train}) == len(examples) == 6
    for key, example in zip(strategy.keys["z"], examples, strict=True):
        torch.testing.assert_close(key, key_of(base, example.prompt))


class Noting(Mute):
    """An answerer that notes what it was adapted to."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], Sequence[Example]]] = []

    def adapted(self, examples: Sequence[Example], steps: int, rate: float, pull: float) -> Answerer:
        assert (steps, rate, pull) == (4, 0.5, 0.25)
        self.examples = examples
        return self

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int | None = None) -> list[str]:
        [prompt] = prompts
        self.asked.append((list(prompt), self.examples))
        return [str(len(self.asked))]


def test_every_prompt_is_answered_next_to_its_own_neighbours(small_model: Path, base: PreTrainedModel) -> None:
    strategy = learned(small_model, neighbours=3, steps=4, rate=0.5, pull=0.25)
    prompts = [example.prompt for example in TASKS[2].train[:4]] + [TASKS[0].train[5].prompt]
    noting = Noting()
    assert strategy.answer(TASKS[0], prompts, noting) == ["1", "2", "3", "4", "5"]
    keys = [(key_of(base, example.prompt), example) for task in TASKS[:2] for example in task.train]
    for prompt, (asked, examples) in zip(prompts, noting.asked, strict=True):
        key = key_of(base, prompt)
        closest = [example for _, example in sorted(keys, key=lambda pair: (pair[0] - key).norm().item())[:3]]
        assert asked == prompt
        assert [ids(e) for e in examples] == [ids(e) for e in closest]
    assert ids(noting.asked[-1][1][0]) == ids(TASKS[0].train[5]), "the nearest to itself is it"


def test_a_restart_answers_next_to_the_same_neighbours(small_model: Path, tmp_path: Path) -> None:
    """Of examples that stand there twice too, the first of which is taken; the file has its own order."""
    strategy = learned(small_model, steps=4, rate=0.5, pull=0.25, neighbours=1)
    strategy.memories["y"] = [replace(example, answer=[7]) for example in strategy.memories["z"]]
    strategy.keys["y"] = strategy.keys["z"].clone()
    strategy.save(tmp_path)
    again = learned(small_model, rounds=0, steps=4, rate=0.5, pull=0.25, neighbours=1)
    again.memories = strategy.memories
    again.restore(tmp_path)
    asked = []
    for each in (strategy, again):
        noting = Noting()
        each.answer(TASKS[0], [TASKS[0].train[3].prompt], noting)
        asked.append(noting.asked)
    assert asked[0] == asked[1]
    assert asked[0][0][1][0].answer != [7]


def test_nothing_is_adapted_before_anything_is_learned(small_model: Path) -> None:
    noting = Noting()
    noting.examples = []
    strategy = learned(small_model, rounds=0)
    assert strategy.answer(TASKS[0], [[1, 2]], noting) == ["1"]
    assert noting.asked == [([1, 2], [])]


def names(phases: Sequence[Phase]) -> list[tuple[str, int, int]]:
    return [(phase.name, len(phase.examples), phase.epochs) for phase in phases]


def test_after_each_epoch_past_tasks_are_replayed_sparsely() -> None:
    strategy = MbPA(ratio=0.25, stored=0.5)
    third = strategy.phases(ROUNDS[2])
    assert names(third) == [("x 1", 12, 1), ("replay 1", 3, 1), ("x 2", 12, 1), ("replay 2", 3, 1)]
    written = {ids(example) for task in TASKS[:2] for example in strategy.memory(1, task)}
    assert len(written) == 12
    replayed = [[ids(example) for example in phase.examples] for phase in third[1::2]]
    assert set(replayed[0]) | set(replayed[1]) <= written
    assert replayed[0] != replayed[1]
    assert names(strategy.phases(ROUNDS[0])) == [("z", 12, 2)]
    assert names(MbPA(ratio=0).phases(ROUNDS[2])) == [("x", 12, 2)]
    assert names(MbPA(ratio=1 / 13).phases(ROUNDS[2])) == [("x", 12, 2)]
    # 0.29 of 100 are 28.999999999999996 to a computer
    large = [FakeTask("w", 3), FakeTask("v", 4)]
    for task in large:
        task.train = (task.train * 9)[:100]
    assert names(MbPA(ratio=0.29).phases(Round(1, large, [])))[1] == ("replay 1", 29, 1)
    drawn = Counter(
        ids(example)
        for seed in range(40)
        for phase in MbPA(ratio=0.25).phases(Round(seed, TASKS, []))[1::2]
        for example in phase.examples
    )
    assert set(drawn) == {ids(example) for task in TASKS[:2] for example in task.train}, "every one has its turn"


def test_what_is_kept_is_what_the_plan_states(small_model: Path, base: PreTrainedModel, tmp_path: Path) -> None:
    strategy = learned(small_model, stored=0.5)
    strategy.save(tmp_path)
    held = sum(part.nbytes for part in load_file(tmp_path / "mbpa.safetensors").values())
    everything = sum(p.numel() for p in base.parameters())
    assert strategy.extra_bytes(ROUNDS[1], everything) == (2 * 4 * everything, held)
    tenth = everything // 10
    assert strategy.extra_bytes(ROUNDS[1], tenth).device == 2 * 4 * everything + 8 * everything - 16 * tenth


def test_without_steps_there_is_no_key(small_model: Path, tmp_path: Path) -> None:
    strategy = learned(small_model, steps=0)
    assert strategy.network is None
    assert strategy.extra_bytes(ROUNDS[1], 1) == (0, 0)
    strategy.save(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong", [{"neighbours": 0}, {"steps": -1}, {"rate": 0.0}, {"pull": -1.0}, {"ratio": 1.5}, {"stored": -0.1}]
)
def test_a_wrong_value_names_its_key(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"strategy.{next(iter(wrong))}"):
        MbPA(**wrong)  # type: ignore[arg-type]
