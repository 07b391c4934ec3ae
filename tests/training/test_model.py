"""What is told from a loaded model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import without_weights
from support import FakeTask
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedModel

from trace_cl.errors import UserError
from trace_cl.strategies.base import Example, Round, Strategy
from trace_cl.strategies.l2p import L2P
from trace_cl.strategies.lfpt5 import LFPT5
from trace_cl.strategies.lora_seqft import LoraSeqFT
from trace_cl.strategies.p_tuning import PTuning
from trace_cl.strategies.progressive_prompts import ProgressivePrompts
from trace_cl.training.model import check_positions, cut_matters


@dataclass
class FakeBenchmarkTask:
    """A task as far as its lengths go."""

    name: str
    prompts: list[list[int]]
    train: list[Example]
    answer_tokens: int


NONE = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def gpt2(**settings: Any) -> PreTrainedModel:
    config = GPT2Config(vocab_size=32, n_embd=8, n_layer=1, n_head=2, initializer_range=0.5, **settings)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model


@pytest.mark.parametrize("kind", ["resid_pdrop", "embd_pdrop", "attn_pdrop"])
def test_a_models_own_dropout_follows_the_cut(kind: str) -> None:
    """Held against the model: two rows are worked on alike together and one after the other, but where it is said."""
    for p in (0.0, 0.5):
        model = gpt2(**{**NONE, kind: p}).train()
        ids = torch.arange(12).view(2, 6)
        torch.manual_seed(0)
        together = model(input_ids=ids).logits
        torch.manual_seed(0)
        second, first = (model(input_ids=row[None]).logits for row in ids.flip(0))
        assert cut_matters(model) == (not torch.allclose(together, torch.cat([first, second]), atol=1e-4)) == (p > 0)


def test_what_a_configuration_alone_tells() -> None:
    """Dropout as a function, dropped layers, a router's noise; not the dropout of a classifier that is not there."""
    assert not cut_matters(without_weights("llama"))
    assert cut_matters(without_weights("llama", attention_dropout=0.1))
    assert not cut_matters(without_weights("opt", dropout=0.0))
    assert cut_matters(without_weights("opt", dropout=0.1))
    assert cut_matters(without_weights("opt", dropout=0.0, layerdrop=0.1))
    assert not cut_matters(without_weights("mixtral"))
    assert cut_matters(without_weights("mixtral", router_jitter_noise=0.01))
    assert not cut_matters(without_weights("gpt_neox", classifier_dropout=0.1))


def test_an_adapters_dropout_does_not() -> None:
    build = LoraSeqFT(dropout=0.3, target_modules=None).build
    rounds = [Round(1, [], [])]
    assert not cut_matters(build(lambda _: without_weights("llama"), None, rounds))
    assert not cut_matters(build(lambda _: gpt2(**NONE), None, rounds))
    assert cut_matters(build(lambda _: gpt2(), None, rounds))


@pytest.mark.parametrize(
    ("strategy", "taken"),
    [
        (Strategy(), (0, 0)),
        (ProgressivePrompts(prompt_tokens=5), (5, 10)),
        (PTuning(prefix_tokens=7), (7, 7)),
        (L2P(pool_size=4, chosen=3, prompt_tokens=2), (6, 6)),
        (LFPT5(prompt_tokens=8), (9, 9)),
    ],
    ids=lambda value: value.name if isinstance(value, Strategy) else "",
)
def test_what_a_strategy_puts_before_a_text_takes_positions(strategy: Strategy, taken: tuple[int, ...]) -> None:
    """The second text, of 20 tokens and 3 of an answer, fits a model of just as many positions as it needs behind what
    stands before it, and no smaller one."""
    tasks: Any = [
        FakeBenchmarkTask(name, [[1] * prompt], [Example([1] * 2, [1] * 3)], 3)
        for name, prompt in (("first", 4), ("second", 20))
    ]
    rounds = [Round(1, tasks[:1], []), Round(1, tasks, [])]
    assert tuple(strategy.positions(round) for round in rounds) == taken
    needed = 20 + 3 + taken[1]
    check_positions(without_weights("llama", max_position_embeddings=needed), tasks, taken)
    with pytest.raises(UserError, match=f"second needs {needed} positions.* and the model has {needed - 1}"):
        check_positions(without_weights("llama", max_position_embeddings=needed - 1), tasks, taken)


@pytest.mark.parametrize("kind", [ProgressivePrompts, L2P, LFPT5])
def test_positions_are_those_of_the_ids_before_a_text(kind: type[Strategy], small_model: Path) -> None:
    strategy, tasks = kind(), [FakeTask("a", 0), FakeTask("b", 1)]
    rounds = [Round(1, tasks[:1], []), Round(1, tasks, [])]
    strategy.build(lambda _: AutoModelForCausalLM.from_pretrained(small_model), None, rounds)
    for round in rounds:
        [phase] = strategy.phases(round)
        before = len(phase.examples[0].prompt) - len(round.task.train[0].prompt)
        own = 1 if kind is LFPT5 else 0  # behind its generation token a text is learned, before an end
        assert strategy.positions(round) == before + own
