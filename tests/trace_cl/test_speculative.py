"""Rows that leave their batch answer what they would have answered alone, token by token."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, with_weights
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from trace_cl.data.batches import DRAFT
from trace_cl.evaluation import Draws
from trace_cl.speculative import Place, Room, answer, can_leave

END, LONGEST = 2, 24
HEADS = {"num_hidden_layers": 2, "num_attention_heads": 4}
BEGINNING = [5, 9, 30, 4, 4, 17, 8, 21, 11, 3]
RESTS = ([7], [3, 12], [29, 3, 6, 8, 14, 15], [4] * 9, [22, 23], [6, 5, 4, 3, 31, 30, 29, 28, 27, 26], [13, 14], [19])


def alone(model: Any, prompt: list[int], tokens: int = LONGEST, end: int | None = END) -> list[int]:
    """One argmax at a time, everything read anew for each."""
    said: list[int] = []
    with torch.inference_mode():
        while len(said) < tokens and (not said or said[-1] != end):
            said.append(int(model(input_ids=torch.tensor([prompt + said])).logits[0, -1].argmax()))
    return said


def ended(ids: list[int]) -> bool:
    return ids[-1] == END


def together(model: Any, prompts: list[list[int]], guesses: Sequence[list[int]] | None = None) -> list[list[int]]:
    return answer(model, prompts, LONGEST, ended, guesses)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """Rows and columns of every call of the model's."""
    sizes: list[tuple[int, int]] = []

    def look(module: torch.nn.Module, inputs: Any) -> None:
        if isinstance(module, torch.nn.Embedding):
            sizes.append(tuple(inputs[0].shape))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(look)
    yield sizes
    hook.remove()


@pytest.mark.parametrize("shared", [BEGINNING, []], ids=["shared", "apart"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_of_every_architecture(architecture: str, shared: list[int]) -> None:
    """Grouped and sliding attention, caps, tied heads, experts."""
    model = with_weights(architecture)
    prompts = [shared + rest for rest in RESTS]
    assert can_leave(model)
    expected = [alone(model, prompt) for prompt in prompts]
    assert together(model, prompts) == expected
    halves = [row[: len(row) // 2] + [END + 1] * 5 for row in expected]
    for guesses in (expected, halves, expected[::-1]):
        assert together(model, prompts, guesses) == expected


@pytest.mark.parametrize("architecture", ["mistral", "qwen2", "gemma2", "gemma3_text"])
def test_windows_shorter_than_the_prompt(architecture: str) -> None:
    """In all layers, in the last ones, in every other one, in five of six."""
    own: Any = {"use_sliding_window": True, "max_window_layers": 2} if architecture == "qwen2" else {}
    model = with_weights(architecture, sliding_window=6, num_hidden_layers=6, **own)
    prompts = [BEGINNING + rest for rest in RESTS]
    expected = [alone(model, prompt) for prompt in prompts]
    for guesses in (None, expected, expected[::-1]):
        assert together(model, prompts, guesses) == expected


def test_no_position_is_beyond_those_that_a_model_has_learned() -> None:
    """Rows that a wider one fills up, and drafts beside longer ones, to the last position there is."""
    longest = max(map(len, RESTS)) + LONGEST
    model = with_weights("opt", max_position_embeddings=longest)
    prompts = [list(rest) for rest in RESTS]
    expected = [alone(model, prompt, longest - len(prompt), end=None) for prompt in prompts]
    said = answer(model, prompts, LONGEST, never, [row[:LONGEST] for row in expected])
    assert said == [row[:LONGEST] for row in expected]
    wrong = [[*row[:number], END] for number, row in enumerate(expected)]
    assert answer(model, prompts, LONGEST, never, wrong) == said


def never(ids: list[int]) -> bool:
    return False


def test_who_has_ended_is_gone(read: list[tuple[int, int]]) -> None:
    """Three of four rows end after 1, 2 and 3 tokens, the fourth never; what all share is read once."""
    model = with_weights("llama", eos_token_id=None)
    prompts = [BEGINNING + rest for rest in RESTS[:4]]
    said = answer(model, prompts, LONGEST, never)
    ends = [said[0][:1], said[1][:2], said[2][:3], said[3]]
    assert len(set(map(tuple, ends))) == 4
    read.clear()
    assert answer(model, prompts, LONGEST, lambda ids: ids in ends[:3]) == ends
    assert read[0] == (1, len(BEGINNING))
    assert [rows for rows, _ in read[1:5]] == [4, 3, 2, 1]


def test_an_answer_that_was_guessed_takes_one_pass(read: list[tuple[int, int]]) -> None:
    model = with_weights("llama")
    prompts = [[number, *rest] for number, rest in enumerate(RESTS, start=3)]
    said = together(model, prompts)
    read.clear()
    assert together(model, prompts, said) == said
    assert len(read) == 1


def test_what_repeats_itself_takes_ever_fewer_passes(read: list[tuple[int, int]]) -> None:
    """An answer that says the same few tokens again and again."""
    model = with_weights("llama", initializer_range=0.01)  # what it says follows from the last token alone
    expected = alone(model, [5, 6, 7], 300, end=None)
    assert expected[-20:] * 14 == expected[-280:]
    read.clear()
    assert answer(model, [[5, 6, 7]], 300, never) == [expected]
    assert max(columns for _, columns in read) == 1 + DRAFT
    assert len(read) < 20 + 300 / DRAFT


def test_wrong_guesses_are_read_less_and_less(read: list[tuple[int, int]]) -> None:
    """What the first group was told wrongly costs the later ones a token each."""
    model = with_weights("llama", max_position_embeddings=4096)
    prompts = [[number] * 1500 for number in range(3, 6)]
    right = together(model, prompts)
    read.clear()
    wrong = [[token ^ 1 for token in row] for row in right]
    assert together(model, prompts, wrong) == right
    assert [columns for _, columns in read[:3]] == [1500 + LONGEST - 1, 1501, 1501]


def test_drawn_tokens_are_the_same_in_any_batch() -> None:
    """Each row's draws come from its own stream, once a token, whoever leaves."""
    model = with_weights("llama")
    prompts = [BEGINNING + rest for rest in RESTS]

    def drawn(numbers: Sequence[int]) -> list[list[int]]:
        draws = Draws(numbers, 8)
        return answer(model, [prompts[number] for number in numbers], LONGEST, ended, choose=draws.among)

    every = drawn(range(len(prompts)))
    assert len({len(row) for row in every}) > 1
    assert [drawn([number])[0] for number in range(len(prompts))] == every


def test_an_adapter_leaves_and_a_prefix_does_not() -> None:
    model = with_weights("llama")
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
    adapted: Any = get_peft_model(model, config)
    assert can_leave(adapted)
    prompts = [BEGINNING + rest for rest in RESTS]
    expected = [alone(adapted, prompt) for prompt in prompts]
    assert together(adapted, prompts) == expected
    prefix = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    prefixed: Any = get_peft_model(with_weights("llama"), prefix)
    assert not can_leave(prefixed)


def test_a_model_that_keeps_no_keys_answers_in_one_call() -> None:
    sizes = {
        "vocab_size": 32,
        "hidden_size": 16,
        "state_size": 4,
        "num_hidden_layers": 2,
        "num_heads": 4,
        "head_dim": 8,
    }
    config = AutoConfig.for_model("mamba2", **sizes, expand=2, n_groups=1)
    assert not can_leave(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("config", [("bloom", {"n_layer": 2, "n_head": 4}), ("falcon", {"alibi": True, **HEADS})])
def test_a_model_that_counts_positions_by_itself_answers_in_one_call(config: tuple[str, dict[str, Any]]) -> None:
    name, sizes = config
    assert not can_leave(
        AutoModelForCausalLM.from_config(AutoConfig.for_model(name, vocab_size=32, hidden_size=16, **sizes))
    )


def test_keys_are_written_where_they_stay() -> None:
    """Two rows from columns of their own, beside one that is not read; against places written by hand."""
    at = Place(slice(0, 3), torch.tensor([[0, 1]]))
    layer, generator = Room(3, 9, at), torch.Generator().manual_seed(0)
    first, second = (torch.randn(rows, 2, 2, 3, generator=generator) for rows in (1, 2))
    assert torch.equal(layer.update(first, -first)[0], first)
    place = layer.kept[0].data_ptr()
    at.rows, at.columns = slice(1, 3), torch.tensor([[2, 3], [4, 5]])
    keys, values = layer.update(second, -second)
    expected = torch.zeros(2, 2, 6, 3)
    expected[:, :, :2] = first
    expected[0, :, 2:4], expected[1, :, 4:] = second
    assert torch.equal(keys, expected)
    assert torch.equal(values, -expected)
    assert layer.kept[0].data_ptr() == place
    assert torch.equal(layer.kept[0][0, :, :2], first[0])
