"""Rows that leave their batch answer what they would have answered alone, token by token."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, with_weights
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from trace_cl.continuing import Roomy, answer, can_leave

END, LONGEST = 2, 24
BEGINNING = [5, 9, 30, 4, 4, 17, 8, 21, 11, 3]
RESTS = ([7], [3, 12], [29, 3, 6, 8, 14, 15], [4] * 9, [22, 23], [6, 5, 4, 3, 31, 30, 29, 28, 27, 26], [13, 14], [19])


def alone(model: Any, prompt: list[int]) -> list[int]:
    """One argmax at a time, everything read anew for each."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        while ids.shape[1] < len(prompt) + LONGEST and (ids.shape[1] == len(prompt) or ids[0, -1] != END):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    return [int(id) for id in ids[0, len(prompt) :]]


def together(model: Any, prompts: list[list[int]]) -> list[list[int]]:
    """Without what stands behind the end token."""
    config = GenerationConfig(max_new_tokens=LONGEST, do_sample=False, eos_token_id=[END], pad_token_id=0)
    rows = answer(model, prompts, config, None)
    return [row[: row.index(END) + 1 if END in row else None] for row in rows]


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
    model.generation_config = GenerationConfig()
    assert together(model, prompts) == expected


def test_a_window_shorter_than_the_prompt() -> None:
    model = with_weights("mistral", sliding_window=6)
    prompts = [BEGINNING + rest for rest in RESTS]
    expected = [alone(model, prompt) for prompt in prompts]
    model.generation_config = GenerationConfig()
    assert together(model, prompts) == expected


def test_who_has_ended_is_gone_when_half_have(read: list[tuple[int, int]]) -> None:
    """Three of four rows end after 1, 2 and 3 tokens, the fourth never; what all share is read once."""
    model = with_weights("llama", eos_token_id=None)
    model.generation_config = GenerationConfig()
    prompts = [BEGINNING + rest for rest in RESTS[:4]]
    said = [alone(model, prompt) for prompt in prompts]
    last = {said[row][length - 1]: length for row, length in ((0, 1), (1, 2), (2, 3))}
    read.clear()
    config = GenerationConfig(max_new_tokens=LONGEST, do_sample=False, pad_token_id=0)

    def settled(ids: list[int]) -> bool:
        return ids[-1] in last and len(ids) == last[ids[-1]] and ids in (said[0][:1], said[1][:2], said[2][:3])

    rows = answer(model, prompts, config, settled)
    assert rows[3][: len(said[3])] == said[3]
    assert [row[:n] for row, n in zip(rows[:3], (1, 2, 3), strict=True)] == [said[0][:1], said[1][:2], said[2][:3]]
    assert read[:2] == [(1, len(BEGINNING)), (4, 9)]
    assert [size[0] for size in read[2:]] == [4, 2, *[1] * (LONGEST - 3)]


def test_an_adapter_leaves_and_a_prefix_does_not() -> None:
    model = with_weights("llama")
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
    adapted: Any = get_peft_model(model, config)
    assert can_leave(adapted)
    prompts = [BEGINNING + rest for rest in RESTS]
    expected = [alone(adapted, prompt) for prompt in prompts]
    model.generation_config = GenerationConfig()
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


def test_keys_are_written_where_they_stay() -> None:
    layer, generator = Roomy(7), torch.Generator().manual_seed(0)

    def some(rows: int, tokens: int) -> tuple[Tensor, Tensor]:
        return torch.randn(rows, 2, tokens, 3, generator=generator), torch.randn(
            rows, 2, tokens, 4, generator=generator
        )

    first, second, third = some(3, 4), some(3, 1), some(2, 2)
    layer.update(*first)
    place = layer.room[0].data_ptr()
    keys, values = layer.update(*second)
    assert (layer.room[0].data_ptr(), layer.get_seq_length()) == (place, 5)
    assert torch.equal(keys, torch.cat([first[0], second[0]], dim=-2))
    assert torch.equal(values, torch.cat([first[1], second[1]], dim=-2))
    layer.batch_select_indices(torch.tensor([0, 2]))
    keys, _ = layer.update(*third)
    assert torch.equal(keys, torch.cat([first[0][[0, 2]], second[0][[0, 2]], third[0]], dim=-2))
