"""HFT's dynamic variant: how much is frozen at each step, counted by hand."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from support import FakeTask, results
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from trace_cl.strategies.base import Round
from trace_cl.strategies.dynamic_freezing import DynamicFreezing, round_half_up

TASKS = [FakeTask("a", 0, epochs=2), FakeTask("b", 1, epochs=5)]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    """Of 3 × 7 matrices, q, k and v with a bias."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=3,
            num_attention_heads=2,
            attention_bias=True,
        )
    )


def frozen_at(strategy: DynamicFreezing, round: Round, model: PreTrainedModel, steps: int) -> list[set[str]]:
    """What does not learn at each step."""
    everything = {name for name, _ in model.named_parameters()}
    found: list[set[str]] = []
    for step in range(steps):
        names = strategy.trainable(round, step, model)
        found.append(everything - set(names) if names is not None else found[-1])
    return found


def matrices(names: set[str]) -> int:
    return sum("_proj.weight" in name for name in names)


def test_every_tenth_of_the_steps_another_tenth_of_21_matrices(model: PreTrainedModel) -> None:
    round = Round(1, TASKS, [], global_batch=2)  # 5 epochs of 6 steps: 3 a stage
    frozen = frozen_at(DynamicFreezing(), round, model, 30)
    # 2.1, 4.2, … 18.9, each to the nearest whole number
    assert [matrices(names) for names in frozen[::3]] == [0, 2, 4, 6, 8, 11, 13, 15, 17, 19]
    named = [step for step in range(30) if DynamicFreezing().trainable(round, step, model) is not None]
    assert named == list(range(0, 30, 3)), "told when it changes"
    for stage in range(10):
        assert frozen[3 * stage] == frozen[3 * stage + 1] == frozen[3 * stage + 2]
    for before, after in pairwise(frozen):
        assert before <= after


def test_stages_that_do_not_divide_the_steps(model: PreTrainedModel) -> None:
    round = Round(1, TASKS[:1], [], global_batch=5)  # 2 epochs of 3 steps
    counts = [matrices(names) for names in frozen_at(DynamicFreezing(), round, model, 6)]
    # Of ten stages these steps lie in 0, 1 (10/6), 3 (20/6), 5, 6 (40/6), 8 (50/6).
    assert counts == [0, 2, 6, 11, 13, 17]
    counts = [matrices(names) for names in frozen_at(DynamicFreezing(stages=4), round, model, 6)]
    assert counts == [0, 0, 5, 11, 11, 16]  # 0, 0, ¼, ½, ½, ¾ of 21


def test_a_bias_goes_with_its_matrix_and_all_else_learns(model: PreTrainedModel) -> None:
    round = Round(1, TASKS, [], global_batch=2)
    last = frozen_at(DynamicFreezing(), round, model, 30)[-1]
    assert not [name for name in last if "_proj" not in name]
    everything = {name for name, _ in model.named_parameters()}
    biases = {name for name in everything if name.endswith("bias")}
    assert len(biases) > 0
    for name in biases:
        assert (name in last) == (name.replace("bias", "weight") in last)


def test_it_is_drawn_anew_each_round_and_by_seed(model: PreTrainedModel) -> None:
    def order(seed: int, tasks: list[FakeTask]) -> list[set[str]]:
        return frozen_at(DynamicFreezing(), Round(seed, tasks, [], global_batch=2), model, 12)

    same = [TASKS[0], TASKS[0]]
    assert order(1, same[:1]) == order(1, same[:1])
    assert order(1, same[:1]) != order(2, same[:1])
    assert order(1, same[:1]) != order(1, same)


def test_half_is_rounded_up() -> None:
    assert [round_half_up(n, 10) for n in (0, 4, 5, 14, 15, 25, 26)] == [0, 0, 1, 1, 2, 3, 3]


def test_a_single_stage_is_seqft_bit_for_bit(run: Callable[..., Path]) -> None:
    plain = run()
    other = run("strategy=dynamic_freezing", "strategy.stages=1", method="dynamic_freezing")
    assert results(plain) == results(other)
    weights = [(folder / "checkpoint" / "model.safetensors").read_bytes() for folder in (plain, other)]
    assert weights[0] == weights[1]


def test_half_of_the_model_may_rest_from_the_beginning(run: Callable[..., Path]) -> None:
    run("strategy=dynamic_freezing", "hft=true", method="dynamic_freezing+hft")


def test_a_wrong_value_names_its_key() -> None:
    with pytest.raises(ValueError, match=r"strategy\.stages"):
        DynamicFreezing(stages=0)
