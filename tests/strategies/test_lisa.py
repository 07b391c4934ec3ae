"""LISA: what learns in every period, and that it depends on nothing but the seed, the round and the period."""

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
from support import FakeTask, compose, results
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from trace_cl.build import build_strategy
from trace_cl.errors import UserError
from trace_cl.strategies.base import Round
from trace_cl.strategies.hft import parameters_of, select
from trace_cl.strategies.lisa import LISA
from trace_cl.strategies.selection import Selection

Run = Callable[..., Path]
DEPTH = 5
ROUND = Round(1, [FakeTask("a", 0)], [])


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=DEPTH,
            num_attention_heads=2,
            tie_word_embeddings=False,
        )
    )


def layers_of(names: object) -> set[int]:
    """The numbers of the layers that have a parameter among these."""
    assert isinstance(names, list)
    return {int(name.split(".")[2]) for name in names if name.startswith("model.layers.")}


def test_every_period_trains_so_many_whole_layers_and_all_outside_of_them(model: PreTrainedModel) -> None:
    strategy = LISA(layers=2, period=4)
    everything = [name for name, _ in model.named_parameters()]
    seen = []
    for step in range(400):
        names = strategy.trainable(ROUND, step, model)
        assert (names is None) == (step % 4 != 0)
        if names is not None:
            learning = layers_of(names)
            outside = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
            inside = [name for name in everything if name.startswith("model.layers.") and layers_of([name]) <= learning]
            assert sorted(names) == sorted(inside + outside)
            seen.append(tuple(sorted(learning)))
        assert strategy.drawn(ROUND, step, DEPTH) == list(seen[-1])
    assert set(seen) == set(combinations(range(DEPTH), 2)), "every pair comes up in a hundred draws, and nothing else"


def test_a_draw_depends_on_seed_round_and_period_alone(model: PreTrainedModel) -> None:
    def drawn(seed: int, number: int, steps: list[int]) -> list[set[int]]:
        round = Round(seed, [FakeTask("a", 0)] * number, [])
        return [layers_of(LISA(layers=2, period=1).trainable(round, step, model)) for step in steps]

    steps = list(range(20))
    assert drawn(1, 1, steps) == drawn(1, 1, steps[::-1])[::-1]
    assert drawn(1, 1, steps) != drawn(2, 1, steps)
    assert drawn(1, 1, steps) != drawn(1, 2, steps)


def test_under_hft_the_frozen_half_rests_in_every_period(model: PreTrainedModel) -> None:
    wrapped = build_strategy(compose("strategy=lisa", "strategy.period=1", "hft=true"))
    frozen = parameters_of(model, select(model, 1, 1, Selection()))
    for step in range(10):
        names = wrapped.trainable(ROUND, step, model)
        plain = LISA(period=1).trainable(ROUND, step, model)
        assert names is not None
        assert plain is not None
        assert set(names) == set(plain) - frozen
        assert len(layers_of(names)) == 2


def test_all_layers_are_seqft_bit_for_bit(run: Run) -> None:
    plain = run()
    other = run("strategy=lisa", "strategy.layers=2", "strategy.period=2", method="lisa")
    assert results(plain) == results(other)
    weights = [(folder / "checkpoint" / "model.safetensors").read_bytes() for folder in (plain, other)]
    assert weights[0] == weights[1]


def test_a_round_says_what_learned_in_it(run: Run) -> None:
    folder = run("strategy=lisa", "strategy.layers=1", "strategy.period=4", "hft=true", method="lisa+hft")
    record = json.loads((folder / "rounds" / "round2.json").read_text())
    drawn = record["strategy"]["layers"]
    assert len(drawn) == 3  # nine steps
    resting = 1 - drawn[0][0]
    assert {f"model.layers.{resting}.mlp.down_proj", f"model.layers.{resting}.self_attn.o_proj"} <= set(
        record["frozen_modules"]
    )


@pytest.mark.parametrize("wrong", [{"layers": 0}, {"period": 0}])
def test_a_wrong_value_names_its_key(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"strategy.{next(iter(wrong))}"):
        LISA(**wrong)


def test_more_layers_than_there_are(run: Run) -> None:
    with pytest.raises(UserError, match=r"strategy\.layers=3 are more layers than .* set it to 2 or fewer"):
        run("strategy=lisa", "strategy.layers=3")
