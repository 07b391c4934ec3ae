"""A-GEM's closed form against GEM's program with one memory, and steps against plain PyTorch."""

from pathlib import Path
from random import Random

import pytest
import torch
from support import FakeTask
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedModel

from trace_cl.strategies.agem import AGEM
from trace_cl.strategies.base import Example, Held, Round
from trace_cl.strategies.gem import project
from trace_cl.training.engine import Optimization
from trace_cl.training.torch_engine import TorchLearner

TASKS = [FakeTask(name, seed) for seed, name in enumerate("abc")]


@pytest.fixture
def model(small_model: Path) -> PreTrainedModel:
    loaded: PreTrainedModel = LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64)
    return loaded


def learner_of(model: PreTrainedModel) -> TorchLearner:
    return TorchLearner(model, Optimization(learning_rate=1e-2), 4096)


def gradient_of(model: PreTrainedModel, examples: list[Example]) -> torch.Tensor:
    """That of the mean cross-entropy over all answer tokens, flat."""
    losses = []
    for example in examples:
        ids = torch.tensor([[*example.prompt, *example.answer]])
        logits = model(input_ids=ids).logits[0, len(example.prompt) - 1 : -1]
        losses.append(cross_entropy(logits, ids[0, len(example.prompt) :], reduction="none"))
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.cat([part.flatten() for part in torch.autograd.grad(torch.cat(losses).mean(), learning)])


def after(strategy: AGEM, learner: TorchLearner, rounds: int) -> Round:
    """The round that follows so many."""
    for t in range(1, rounds + 1):
        strategy.begin_round(Round(3, TASKS[:t], []), learner)
        strategy.end_round(Round(3, TASKS[:t], []), learner)
    round = Round(3, TASKS[: rounds + 1], [])
    strategy.begin_round(round, learner)
    return round


@pytest.mark.parametrize("frozen", [False, True])
def test_a_step_is_what_gems_program_gives_for_the_one_memory(model: PreTrainedModel, frozen: bool) -> None:
    """Margin 0, eps 0: whether the two agree or not, and (as under HFT) where only a part learns."""
    if frozen:
        model.model.layers[0].requires_grad_(False)
    strategy, learner = AGEM(memory_size=4, memory_batch=3), learner_of(model)
    round = after(strategy, learner, 2)
    memory = [task.train[index] for task in TASKS[:2] for index in strategy.kept[task.name]]
    happened = set()
    for step in range(6):
        reference = gradient_of(model, Random(f"agem/3/3/{step}").sample(memory, 3))
        batch = TASKS[2].train[2 * step : 2 * step + 2]
        sign = 1 - 2 * (step % 2)  # a gradient turned round agrees where the other did not
        learner.backward(batch)
        learner.put_gradients({name: sign * part for name, part in learner.take_gradients().items()})
        gradient = sign * gradient_of(model, batch)
        told = strategy.adjust_gradients(round, learner)
        ours = torch.cat([part.flatten() for part in learner.take_gradients().values()])
        torch.testing.assert_close(ours, project(gradient, reference[None], margin=0, eps=0), rtol=1e-9, atol=1e-12)
        assert told["projected"] == bool(gradient @ reference < 0)
        assert told["inner_product"]["before"] == pytest.approx((gradient @ reference).item())
        assert told["inner_product"]["after"] == pytest.approx((ours @ reference).item(), abs=1e-12)
        happened.add(told["projected"])
    assert happened == {False, True}


def test_by_hand(model: PreTrainedModel) -> None:
    """g = (1, 0) against g_ref = (−1, 1): what is left, (1/2, 1/2), stands at right angles to it."""

    class Given(TorchLearner):
        def __init__(self) -> None:
            self.now = {"x": torch.tensor([1.0, 0.0])}

        def backward(self, examples: object, weight: float = 1.0) -> float:
            self.now = {"x": torch.tensor([-1.0, 1.0])}
            return 0.0

        def take_gradients(self) -> dict[str, torch.Tensor]:
            return self.now

        def put_gradients(self, gradients: dict[str, torch.Tensor]) -> None:
            self.now = gradients

    strategy, learner = AGEM(), Given()
    assert strategy.adjust_gradients(after(strategy, learner, 1), learner)["projected"]
    torch.testing.assert_close(learner.now["x"], torch.tensor([0.5, 0.5]))


def test_the_reference_is_drawn_from_all_past_tasks_together(model: PreTrainedModel) -> None:
    strategy, learner = AGEM(memory_size=4, memory_batch=6), learner_of(model)
    round = after(strategy, learner, 2)
    drawn: list[list[Example]] = []
    learner.backward = lambda examples, weight=1.0: drawn.append(list(examples)) or 0.0  # type: ignore
    for _ in range(8):
        strategy.adjust_gradients(round, learner)
    of_a = [sum(example in TASKS[0].train for example in batch) for batch in drawn]
    assert all(len(batch) == 6 for batch in drawn)
    assert len({str(batch) for batch in drawn}) == 8, "each step draws anew"
    assert len(set(of_a)) > 1, "no quota a task"
    assert {id(example) for batch in drawn for example in batch} == {id(example) for example in strategy.memory}
    assert len(strategy.memory) == 8


def test_the_first_round_has_nothing_to_agree_with(model: PreTrainedModel) -> None:
    strategy, learner = AGEM(), learner_of(model)
    round = after(strategy, learner, 0)
    learner.backward(TASKS[0].train)
    assert strategy.adjust_gradients(round, learner) == {}
    assert strategy.end_round(round, learner)["projected_share"] == 0


def test_it_survives_a_restart(model: PreTrainedModel, tmp_path: Path) -> None:
    strategy, learner = AGEM(memory_size=5), learner_of(model)
    round = after(strategy, learner, 2)
    strategy.steps, strategy.projected = 7, 3
    strategy.save(tmp_path)
    again = AGEM(memory_size=5)
    again.restore(tmp_path)
    again.begin_round(round, learner)
    again.resume(Held(**vars(strategy.hold())))
    assert again.memory == strategy.memory
    assert (again.steps, again.projected) == (7, 3)


def test_what_is_held_is_one_gradient(model: PreTrainedModel) -> None:
    assert AGEM().extra_bytes(Round(1, TASKS[:1], []), 1000) == (0, 0)
    assert AGEM().extra_bytes(Round(1, TASKS, []), 1000) == (4000, 0)


@pytest.mark.parametrize("wrong", [{"memory_size": 0}, {"memory_batch": 0}])
def test_a_wrong_value_names_its_key(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"strategy.{next(iter(wrong))}"):
        AGEM(**wrong)
