"""DER++ against autograd on the plain model; what it keeps against brute force."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import FakeTask
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

from trace_cl.strategies.base import Example, Parts, Round
from trace_cl.strategies.der import DER, Remembered
from trace_cl.training.engine import Optimization
from trace_cl.training.torch_engine import TorchLearner

TASKS = [FakeTask("a", 0), FakeTask("b", 1), FakeTask("c", 2)]
FIRST, SECOND, THIRD = (Round(1, TASKS[:t], []) for t in (1, 2, 3))


@pytest.fixture
def model(small_model: Path) -> PreTrainedModel:
    loaded: PreTrainedModel = LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64)
    return loaded


def learner_of(model: PreTrainedModel, strategy: DER, budget: int = 4096) -> TorchLearner:
    return TorchLearner(model, Optimization(learning_rate=1e-2), budget, strategy.loss)


def predicted(model: PreTrainedModel, example: Example) -> Tensor:
    """What the plain model predicts at the answer's tokens."""
    ids = torch.tensor([[*example.prompt, *example.answer]])
    logits: Tensor = model(input_ids=ids).logits[0, len(example.prompt) - 1 : -1]
    return logits


def remembering(model: PreTrainedModel, rounds: int = 1, budget: int = 4096, **settings: float) -> DER:
    """A strategy that has ended so many rounds on this model."""
    strategy = DER(**settings)  # type: ignore[arg-type]
    for round in (FIRST, SECOND, THIRD)[:rounds]:
        learner = learner_of(model, strategy, budget)
        strategy.begin_round(round, learner)
        strategy.end_round(round, learner)
        learner.close()
    return strategy


def moved(model: PreTrainedModel, by: float) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=by)


def test_what_is_kept_are_the_largest_logits_of_the_kept_examples(model: PreTrainedModel) -> None:
    strategy = remembering(model, memory_size=5, top_k=7)
    learner = learner_of(model, strategy)
    strategy.begin_round(SECOND, learner)
    assert len(strategy.memory) == 5
    assert not torch.is_inference(strategy.memory[0].logits)
    for kept in strategy.memory:
        [original] = [e for e in TASKS[0].train if (e.prompt, e.answer) == (kept.prompt, kept.answer)]
        for row, logits, tokens in zip(predicted(model, original), kept.logits, kept.tokens, strict=True):
            best = sorted(range(len(row)), key=lambda token: -row[token].item())[:7]
            assert tokens.tolist() == best
            torch.testing.assert_close(logits, row[best].float())


def test_a_vocabularys_worth_keeps_every_logit(model: PreTrainedModel) -> None:
    strategy = remembering(model, top_k=10**6)
    assert strategy.kept["a"][0].shape == (12 * 3, model.config.vocab_size)


def test_a_model_in_training_is_remembered_as_it_answers(model: PreTrainedModel) -> None:
    learner = learner_of(model, DER())
    seen = []
    model.get_decoder().register_forward_hook(lambda module, *_: seen.append(module.training))
    logits = learner.logits(TASKS[0].train[0])
    assert seen == [False]
    assert model.training
    assert not logits.requires_grad
    torch.testing.assert_close(logits, predicted(model, TASKS[0].train[0]).detach())


def adjusted(strategy: DER, model: PreTrainedModel, budget: int = 4096) -> tuple[dict[str, float], Parts]:
    """The terms and the gradients of a step of the second round."""
    learner = learner_of(model, strategy, budget)
    strategy.begin_round(SECOND, learner)
    learner.backward(TASKS[1].train)
    terms = strategy.adjust_gradients(SECOND, learner)
    return terms, learner.take_gradients()


def test_at_the_first_step_nothing_has_moved_from_what_is_kept(model: PreTrainedModel) -> None:
    terms, gradients = adjusted(remembering(model, beta=0.0, alpha=100.0), model)
    assert terms["distillation"] == pytest.approx(0, abs=1e-10)  # kept in fp32
    _, plain = adjusted(DER(alpha=0.0, beta=0.0), model)
    for name, part in plain.items():
        torch.testing.assert_close(gradients[name], part, rtol=0, atol=1e-4)


@pytest.mark.parametrize("budget", [4096, 40], ids=["whole", "cut"])
def test_later_it_is_the_gradient_of_all_three_terms(model: PreTrainedModel, small_model: Path, budget: int) -> None:
    """Of both draws by hand; every example is drawn, since a draw is as large as the memory."""
    old = LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64)
    strategy = remembering(model, alpha=3.0, beta=0.7, memory_size=4, memory_batch=4, top_k=9)
    moved(model, 0.05)
    plain = LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64)
    moved(plain, 0.05)
    terms, gradients = adjusted(strategy, model, budget)

    def mean_loss(examples: list[Example]) -> Tensor:
        rows = [-predicted(plain, e).log_softmax(-1)[range(len(e.answer)), e.answer] for e in examples]
        return torch.cat(rows).mean()

    memory: list[Example] = [*strategy.memory]
    squares = []
    for example in memory:
        before = predicted(old, example).detach().topk(9, dim=-1)
        squares.append((predicted(plain, example).gather(1, before.indices) - before.values).square().mean(dim=-1))
    distillation, replay = 3.0 * torch.cat(squares).mean(), 0.7 * mean_loss(memory)
    assert terms == {"distillation": pytest.approx(distillation.item()), "replay": pytest.approx(replay.item())}
    assert distillation > 1e-3
    loss = mean_loss(TASKS[1].train) + distillation + replay
    for (name, part), value in zip(gradients.items(), torch.autograd.grad(loss, list(plain.parameters())), strict=True):
        torch.testing.assert_close(part, value, rtol=1e-5, atol=1e-7, msg=name)


def test_the_two_terms_learn_from_draws_of_their_own(model: PreTrainedModel) -> None:
    strategy = remembering(model, rounds=2, memory_batch=6)
    learner, drawn = learner_of(model, strategy), []
    strategy.begin_round(THIRD, learner)
    backward = learner.backward
    learner.backward = lambda examples: drawn.append(examples) or backward(examples)  # type: ignore
    for _ in range(2):
        strategy.adjust_gradients(THIRD, learner)
    assert [len(draw) for draw in drawn] == [6] * 4
    assert len({tuple(map(id, draw)) for draw in drawn}) == 4
    assert all(isinstance(example, Remembered) for draw in drawn for example in draw)
    task_of = {id(example.answer): task.name for task in TASKS for example in task.train}
    assert {task_of[id(example.answer)] for draw in drawn for example in draw} == {"a", "b"}


def test_a_restart_remembers_the_same(model: PreTrainedModel, tmp_path: Path) -> None:
    strategy = remembering(model, rounds=2, memory_size=3, top_k=5)
    strategy.save(tmp_path)
    again = DER(memory_size=3, top_k=5)
    again.restore(tmp_path)
    for each in (strategy, again):
        each.begin_round(THIRD, learner_of(model, each))
    assert len(strategy.memory) == 6
    for one, other in zip(strategy.memory, again.memory, strict=True):
        assert (one.prompt, one.answer) == (other.prompt, other.answer)
        assert torch.equal(one.logits, other.logits)
        assert torch.equal(one.tokens, other.tokens)


def test_what_is_kept_is_what_the_plan_states(model: PreTrainedModel, tmp_path: Path) -> None:
    strategy = remembering(model, rounds=2, memory_size=5, top_k=8)
    strategy.save(tmp_path)
    held = sum(part.nbytes for part in load_file(tmp_path / "der.safetensors").values())
    assert DER(memory_size=5, top_k=8).extra_bytes(SECOND, 1000) == (4 * 1000, held)
    assert strategy.extra_bytes(FIRST, 1000).device == 0
    assert DER(alpha=0, beta=0).extra_bytes(SECOND, 1000) == (0, 0)


def test_a_strength_of_nothing_keeps_nothing(model: PreTrainedModel, tmp_path: Path) -> None:
    strategy = remembering(model, rounds=2, alpha=0.0, beta=0.0)
    strategy.save(tmp_path)
    assert not list(tmp_path.iterdir())
    DER(alpha=0.0, beta=0.0).restore(tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"alpha": -1.0}, {"beta": float("nan")}, {"memory_size": 0}, {"memory_batch": 0}, {"top_k": 0}]
)
def test_a_wrong_value_names_its_key(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"strategy.{next(iter(wrong))}"):
        DER(**wrong)  # type: ignore[arg-type]
