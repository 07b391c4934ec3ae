"""A model adapted to a few examples: against a loop by hand; and nothing of it is left."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from support import FakeTask, Killed
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedModel

from trace_cl.evaluation import Generator
from trace_cl.strategies.base import Example
from trace_cl.tiny import CHECKPOINT
from trace_cl.training.adaptation import Adaptation
from trace_cl.training.model import load_tokenizer
from trace_cl.training.ranks import Ranks
from trace_cl.training.torch_engine import TorchLearner

TOKENIZER = load_tokenizer(str(CHECKPOINT))
EXAMPLES = FakeTask("a", 0).train[:4]
RATE = 0.5
PROMPTS = [example.prompt for example in FakeTask("b", 1).train[:3]]


def load(small_model: Path, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    model: PreTrainedModel = LlamaForCausalLM.from_pretrained(small_model, dtype=dtype)
    model.eval()
    return model


def adaptation(steps: int = 3, pull: float = 0.3, budget: int = 4096) -> Adaptation:
    return Adaptation(EXAMPLES, steps, RATE, pull, budget)


@pytest.mark.parametrize("budget", [4096, 30], ids=["whole", "cut"])
def test_the_steps_are_gradient_descent_by_hand(small_model: Path, budget: int) -> None:
    """On the gradient of both terms by autograd; both are clipped to a norm of one."""
    model, by_hand = load(small_model), load(small_model)
    parameters = list(by_hand.parameters())
    start = [p.detach().clone() for p in parameters]
    norms = []
    for _ in range(4):
        losses = []
        for example in EXAMPLES:
            ids = torch.tensor([[*example.prompt, *example.answer]])
            logits = by_hand(input_ids=ids).logits[0, len(example.prompt) - 1 : -1]
            losses.append(cross_entropy(logits, ids[0, len(example.prompt) :], reduction="none"))
        distance = torch.stack([(p - s).square().sum() for p, s in zip(parameters, start, strict=True)]).sum()
        gradients = torch.autograd.grad(torch.cat(losses).mean() + 0.3 * distance, parameters)
        norms.append(torch.stack([g.square().sum() for g in gradients]).sum().sqrt().item())
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p.sub_(RATE * g * min(1.0, 1 / (norms[-1] + 1e-6)))
    assert min(norms) > 1
    with adaptation(steps=4, budget=budget).of(model):
        for (name, ours), theirs in zip(model.named_parameters(), parameters, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7, msg=name)


@contextmanager
def untouched(model: PreTrainedModel) -> Iterator[None]:
    """The weights are the same tensors with the same bytes afterwards; flags, gradients and mode are as they were."""
    before = {name: (p.data_ptr(), p.detach().clone(), p.requires_grad) for name, p in model.named_parameters()}
    training, configured = model.training, model.generation_config
    yield
    for name, parameter in model.named_parameters():
        place, values, learns = before[name]
        assert parameter.data_ptr() == place, name
        assert torch.equal(parameter, values), name
        assert parameter.dtype == values.dtype
        assert parameter.requires_grad == learns, name
        assert parameter.grad is None, name
    assert model.training == training
    assert model.generation_config is configured


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_afterwards_everything_is_as_before(small_model: Path, dtype: torch.dtype) -> None:
    model = load(small_model, dtype)
    model.model.layers[0].requires_grad_(False)
    with untouched(model), adaptation().of(model):
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        assert not model.training
        assert not torch.equal(model.lm_head.weight, load(small_model, dtype).lm_head.weight)


def gone_wrong(*_: object) -> None:
    raise Killed


def test_also_when_something_goes_wrong(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(small_model)
    model.lm_head.requires_grad_(False)
    with untouched(model), pytest.raises(KeyError), adaptation().of(model):
        raise KeyError
    monkeypatch.setattr(TorchLearner, "step", gone_wrong)
    with untouched(model), pytest.raises(Killed), adaptation().of(model):
        pass


def test_the_pull_holds_the_weights_back(small_model: Path) -> None:
    model = load(small_model)
    moved = []
    before = copy.deepcopy(model.lm_head.weight.data)
    for pull in (0.0, 0.1, 1.0):
        with adaptation(steps=8, pull=pull).of(model):
            moved.append((model.lm_head.weight - before).norm().item())
    assert moved[0] > moved[1] > moved[2]


def test_dropout_does_not_draw(small_model: Path) -> None:
    model = load(small_model)
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        with adaptation().of(model):
            found.append(model.lm_head.weight.detach().clone())
    assert torch.equal(*found)


class Remembering(dict[str, list[list[int]]]):
    """Kept answers, in memory."""

    def put(self, key: str, rows: list[list[int]]) -> None:
        self[key] = rows


def generator(model: PreTrainedModel, kept: Remembering | None = None) -> Generator:
    return Generator(model, TOKENIZER, 6, 4096, Ranks(), kept=kept, learning_tokens=4096)


def answered(answerer: Generator) -> list[str]:
    """Each prompt by a model adapted to other examples; the last without."""
    adapted = [answerer.adapted(EXAMPLES[n : n + 2], 3, 3.0, 0.0).generate([PROMPTS[n]]) for n in range(2)]
    return [answer for [answer] in [*adapted, answerer.generate(PROMPTS[2:])]]


def test_answers_are_the_adapted_models_and_leave_it_alone(small_model: Path) -> None:
    model = load(small_model)
    plain = generator(model).generate(PROMPTS)
    with untouched(model):
        answers = answered(generator(model))
    assert answers[0] != plain[0]
    assert answers[2] == plain[2]
    for n in range(2):
        with Adaptation(EXAMPLES[n : n + 2], 3, 3.0, 0.0, 4096).of(model):
            assert generator(model).generate([PROMPTS[n]]) == [answers[n]]


def test_an_answer_that_is_kept_is_not_adapted_for_again(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, kept = load(small_model), Remembering()
    answers = answered(generator(model, kept))
    assert len(kept) == 3
    kept.popitem()  # the last, which needs no adapting
    monkeypatch.setattr(Adaptation, "_adapt", gone_wrong)
    assert answered(generator(model, kept)) == answers
    kept.pop(next(iter(kept)))
    with pytest.raises(Killed):
        answered(generator(model, kept))


def test_the_same_prompt_may_be_adapted_for_twice(small_model: Path) -> None:
    """What is kept of the first is not taken for the second, whose examples are others."""
    model, kept = load(small_model), Remembering()
    for _ in range(2):
        answerer = generator(model, kept)
        [one], [other] = (
            answerer.adapted([Example(PROMPTS[0], [token] * 6)], 8, 3.0, 0.0).generate(PROMPTS[:1])
            for token in (50, 90)
        )
        assert one != other
    assert len(kept) == 2
