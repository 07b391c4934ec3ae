"""LFPT5: what each part of its loss is, where pseudo samples come from, and that they never come from a test set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support import FakeTask, Mute
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from transformers import LlamaForCausalLM, PreTrainedModel

from trace_cl.data.batches import collate
from trace_cl.strategies.base import Example, Round
from trace_cl.strategies.lfpt5 import LFPT5
from trace_cl.training.engine import Optimization
from trace_cl.training.loss import LanguageModel
from trace_cl.training.torch_engine import TorchLearner

END = 2


class Guarded(FakeTask):
    """A task that is asked for what a strategy may know of it, and for nothing else."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.train = [Example(example.prompt, [*example.answer[:2], END]) for example in self.train]

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} of a task was looked at")


TASKS = [Guarded(name, seed) for seed, name in enumerate("abc")]
ROUNDS = [Round(1, TASKS[:t], []) for t in (1, 2, 3)]
ADDED = [f"model.embed_tokens.{name}" for name in ("prompt", "generation1", "generation2", "generation3")]


class Saying(Mute):
    """An answerer that notes what it is asked, and samples texts and answers of its own, some without an end."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[list[int]], int, int, int]] = []

    def sample(self, prompts: Sequence[Sequence[int]], tokens: int, top_k: int, seed: int) -> list[list[int]]:
        self.asked.append(([list(prompt) for prompt in prompts], tokens, top_k, seed))
        return [[[900 + n, 901, END], [902, 903, 904], [END]][n % 3] for n in range(len(prompts))]


class SayingLearner(TorchLearner):
    """One device's, but for what it says."""

    def sample(self, prompts: Sequence[Sequence[int]], tokens: int, top_k: int, seed: int) -> list[list[int]]:
        return Saying().sample(prompts, tokens, top_k, seed)


@pytest.fixture
def strategy() -> LFPT5:
    return LFPT5(prompt_tokens=2, samples=9, batch_size=4, distillation_strength=0.5)


@pytest.fixture
def plain(small_model: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64)


@pytest.fixture
def model(strategy: LFPT5, small_model: Path) -> PreTrainedModel:
    return strategy.build(lambda _: LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64), None, ROUNDS)


def by_hand(
    model: PreTrainedModel, plain: LlamaForCausalLM, before: Sequence[str], text: list[int], said: list[int]
) -> Tensor:
    """Logits of what is said behind a text and, before it, rows of the prompts' parameters."""
    words = plain.get_input_embeddings()(torch.tensor([*text, *said[:-1]], dtype=torch.long))
    embedded = torch.cat([*(model.get_parameter(f"model.embed_tokens.{name}") for name in before), words])[None]
    logits: Tensor = plain(inputs_embeds=embedded).logits[0, -len(said) :]
    return logits


def learner_of(strategy: LFPT5, model: PreTrainedModel, round: Round) -> SayingLearner:
    names = strategy.trainable(round, 0, model)
    assert names is not None
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    return SayingLearner(model, Optimization(learning_rate=0.1), 4096, strategy.loss)


def test_pseudo_samples_are_what_the_model_says_and_nothing_else(strategy: LFPT5, model: PreTrainedModel) -> None:
    """Nothing of a task but its training set is looked at; what is asked is virtual tokens, and what was just drawn."""
    saying = Saying()
    drawn = strategy.draw(ROUNDS[2], 2, saying)
    first = strategy.prompt[0]
    assert strategy.prompt == [first, first + 1]
    (asked, tokens, top_k, seed), (again, answer, greedy, _) = saying.asked
    assert asked == [[first, first + 1, first + 3]] * 9, "the second task's token"
    assert (tokens, top_k) == (max(len(example.prompt) for example in TASKS[1].train) + 1, 64)
    assert again == [[first, first + 1, 900 + n, 901] for n in (0, 3, 6)], "what came to no end is dropped, or is empty"
    assert (answer, greedy) == (3, 1)
    assert drawn == [Example([900, 901], [900, 901, END])]
    strategy.draw(ROUNDS[1], 1, saying)
    assert saying.asked[2][3] != seed


def test_what_a_step_learns_is_the_sum_of_its_parts(
    strategy: LFPT5, model: PreTrainedModel, plain: LlamaForCausalLM
) -> None:
    """Against autograd of the losses as they are written, of the examples that the step drew."""
    learner = learner_of(strategy, model, ROUNDS[1])
    strategy.begin_round(ROUNDS[1], learner)
    assert {number: len(examples) for number, examples in strategy.pseudo.items()} == {1: 1}
    with torch.no_grad():
        before = by_hand(model, plain, ["prompt"], [900, 901], [900, 901, END])
        model.get_parameter(ADDED[0]).add_(0.3 * torch.randn(2, 16, generator=torch.Generator().manual_seed(0)))
    drawn: list[tuple[str, list[Example]]] = []

    def noting(part: Any, examples: list[Example], learner: Any) -> float:
        drawn.append((part, examples))
        return LFPT5.add_gradient(strategy, part, examples, learner)

    strategy.add_gradient = noting  # type: ignore[method-assign]
    [phase] = strategy.phases(ROUNDS[1])
    assert learner.backward(phase.examples) > 0
    told = strategy.adjust_gradients(ROUNDS[1], learner)
    ours = learner.take_gradients()

    (_, texts), (_, replayed) = drawn
    assert len(texts) == 4 + 1
    assert replayed == [Example([*strategy.prompt, 900, 901], [900, 901, END])]
    model.zero_grad()

    def mean(parts: list[tuple[Tensor, list[int]]]) -> Tensor:
        return cross_entropy(
            torch.cat([logits for logits, _ in parts]), torch.tensor([token for _, said in parts for token in said])
        )

    task = mean([(by_hand(model, plain, ["prompt"], e.prompt, e.answer), e.answer) for e in TASKS[1].train])
    generated = []
    for example in texts:
        [number] = [example.prompt[-1] - strategy.prompt[-1]]
        generated.append((by_hand(model, plain, ["prompt", f"generation{number}"], [], example.answer), example.answer))
        own = {1: [[900, 901]], 2: [e.prompt for e in TASKS[1].train]}[number]
        assert example.answer[-1] == END
        assert example.answer[:-1] in own
    generation = 0.25 * mean(generated)
    now = by_hand(model, plain, ["prompt"], [900, 901], [900, 901, END])
    distillation = 0.5 * kl_div(log_softmax(now, -1), log_softmax(before, -1), reduction="sum", log_target=True) / 3
    replay = mean([(now, [900, 901, END])])
    assert told == pytest.approx(
        {"generation": generation.item(), "replay": replay.item(), "distillation": distillation.item()}
    )
    assert distillation.item() > 1e-6
    (task + generation + replay + distillation).backward()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, model.get_parameter(name).grad, rtol=1e-8, atol=1e-10)
    learner.close()


def test_nothing_is_distilled_while_the_model_is_as_it_was(strategy: LFPT5, model: PreTrainedModel) -> None:
    learner = learner_of(strategy, model, ROUNDS[2])
    strategy.begin_round(ROUNDS[2], learner)
    strategy.learning = "replay"
    learner.backward([strategy.solving(e) for examples in strategy.pseudo.values() for e in examples])
    assert learner.noted == {"distillation": 0}
    strategy.learning = "task"
    learner.close()


def test_the_prompt_and_the_tokens_of_the_tasks_so_far_learn(strategy: LFPT5, model: PreTrainedModel) -> None:
    assert strategy.trainable(ROUNDS[1], 0, model) == ADDED[:3]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    learner = learner_of(strategy, model, ROUNDS[1])
    strategy.begin_round(ROUNDS[1], learner)
    for _ in range(2):
        learner.backward(strategy.phases(ROUNDS[1])[0].examples)
        strategy.adjust_gradients(ROUNDS[1], learner)
        learner.step()
    assert strategy.end_round(ROUNDS[1], learner) == {"pseudo_samples": {"a": 1}}
    learner.close()
    assert [name for name, p in model.named_parameters() if not torch.equal(p, before[name])] == ADDED[:3]


def test_a_step_draws_by_its_number_alone(strategy: LFPT5, model: PreTrainedModel) -> None:
    """A round that goes on in its middle draws what it would have drawn."""
    learner = learner_of(strategy, model, ROUNDS[0])

    def generated(strategy: LFPT5) -> list[list[Example]]:
        drawn: list[list[Example]] = []

        def noting(part: Any, examples: list[Example], learner: Any) -> float:
            drawn.append(examples)
            return 0.0

        strategy.add_gradient = noting  # type: ignore[method-assign]
        strategy.adjust_gradients(ROUNDS[0], learner)
        return drawn

    strategy.begin_round(ROUNDS[0], learner)
    first, held = generated(strategy), strategy.hold()
    second = generated(strategy)
    assert first != second
    strategy.begin_round(ROUNDS[0], learner)
    strategy.resume(held)
    assert generated(strategy) == second
    learner.close()


def test_a_generated_batch_is_cut_as_any_other(strategy: LFPT5, model: PreTrainedModel) -> None:
    strategy.learning = "generation"
    examples = [strategy.generating(1, example) for example in TASKS[0].train]
    total = sum(len(example.answer) for example in examples)
    whole = strategy.loss(LanguageModel(model), collate(examples, total)).item()
    cut = sum(strategy.loss(LanguageModel(model), collate([example], total)).item() for example in examples)
    assert whole == pytest.approx(cut, rel=1e-12)


@pytest.mark.parametrize("key", ["prompt_tokens", "samples", "batch_size", "top_k", "generation_strength"])
def test_a_wrong_value_names_its_key(key: str) -> None:
    with pytest.raises(ValueError, match=rf"strategy\.{key}=-1"):
        LFPT5(**{key: -1})
