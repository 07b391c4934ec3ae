"""LwF's distillation by finite differences, and a teacher that stays as it was."""

from pathlib import Path

import pytest
import torch
from support import FakeTask
from torch.nn.functional import softmax
from transformers import LlamaForCausalLM, PreTrainedModel

from trace_cl.strategies.base import Parts, Round
from trace_cl.strategies.lwf import LwF, distillation
from trace_cl.training.engine import Optimization
from trace_cl.training.torch_engine import TorchLearner

A, B = FakeTask("a", 0), FakeTask("b", 1)
SECOND = Round(1, [A, B], [])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_gradient_in_the_logits(temperature: float) -> None:
    """T (p − p_old), against finite differences: the factor T² of the loss is in it."""
    torch.manual_seed(0)
    logits, old = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    by_hand = temperature * (softmax(logits / temperature, -1) - softmax(old / temperature, -1))
    step = 1e-6
    for row in range(3):
        for column in range(5):
            up, down = logits.clone(), logits.clone()
            up[row, column] += step
            down[row, column] -= step
            slope = (distillation(up, old, temperature) - distillation(down, old, temperature))[row] / (2 * step)
            assert slope.item() == pytest.approx(by_hand[row, column].item(), abs=1e-8)


def test_the_distillation_is_the_divergence_of_the_student_from_the_teacher() -> None:
    """KL(teacher ‖ student), the teacher's probabilities in front; the other way round it would be 0.37."""
    teacher, student = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    expected = 0.5 * torch.tensor(0.5 / 0.9).log() + 0.5 * torch.tensor(0.5 / 0.1).log()
    assert distillation(student, teacher, 1.0).item() == pytest.approx(expected.item())


@pytest.fixture
def model(small_model: Path) -> PreTrainedModel:
    loaded: PreTrainedModel = LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64)
    return loaded


def gradients_of(strategy: LwF, model: PreTrainedModel, moved: float = 0.0, budget: int = 4096) -> Parts:
    """The gradients of a step of the second round, the student having moved that far from its teacher."""
    learner = TorchLearner(model, Optimization(learning_rate=1e-2), budget, strategy.loss)
    strategy.begin_round(SECOND, learner)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=moved)
    learner.backward(B.train)
    return learner.take_gradients()


def test_the_rounds_first_step_is_the_plain_one(model: PreTrainedModel) -> None:
    """Student and teacher are still one, so the distillation has no gradient."""
    plain, distilled = (gradients_of(LwF(strength=strength), model) for strength in (0.0, 100.0))
    for name, part in plain.items():
        torch.testing.assert_close(distilled[name], part, rtol=0, atol=1e-12)


def test_later_it_is_the_gradient_of_both_terms_however_the_batch_is_cut(
    model: PreTrainedModel, small_model: Path
) -> None:
    teacher = LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64)
    for budget in (4096, 40):
        student = LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64)
        ours = gradients_of(LwF(strength=3.0, temperature=2.0), student, moved=0.05, budget=budget)
        losses, tokens = [], 0
        for example in B.train:
            ids = torch.tensor([[*example.prompt, *example.answer]])
            answers = slice(len(example.prompt) - 1, -1)
            new, old = student(input_ids=ids).logits[0, answers], teacher(input_ids=ids).logits[0, answers].detach()
            targets = ids[0, len(example.prompt) :]
            losses.append(-new.log_softmax(-1)[range(len(targets)), targets].sum())
            p_old = softmax(old / 2, -1)
            losses.append(3.0 * 4 * (p_old * (p_old.log() - (new / 2).log_softmax(-1))).sum())
            tokens += len(targets)
        expected = torch.autograd.grad(torch.stack(losses).sum() / tokens, list(student.parameters()))
        for (name, part), value in zip(ours.items(), expected, strict=True):
            torch.testing.assert_close(part, value, rtol=1e-6, atol=1e-9, msg=name)


def test_the_teacher_is_the_model_before_and_learns_nothing(model: PreTrainedModel, small_model: Path) -> None:
    strategy = LwF()
    gradients_of(strategy, model, moved=0.1)
    assert strategy.teacher is not None
    before = LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64).state_dict()
    teacher = strategy.teacher.model  # type: ignore[attr-defined]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher.training


def test_in_the_first_round_there_is_no_teacher(model: PreTrainedModel) -> None:
    strategy = LwF()
    strategy.build(lambda _: model, None, [])
    strategy.begin_round(Round(1, [A], []), TorchLearner(model, Optimization(learning_rate=1e-2), 4096))
    assert strategy.teacher is None
    assert strategy.extra_bytes(Round(1, [A], []), 1) == (0, 0)
    assert strategy.extra_bytes(SECOND, 1).device == sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize("wrong", [{"strength": -1.0}, {"temperature": 0.0}, {"temperature": float("nan")}])
def test_a_wrong_value_names_its_key(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"strategy.{next(iter(wrong))}"):
        LwF(**wrong)
