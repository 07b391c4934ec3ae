"""What a checkpoint gives a strategy back: all of it, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import FakeTask
from torch import Tensor
from transformers import LlamaForCausalLM

from trace_cl.strategies.adalora import AdaLoRA
from trace_cl.strategies.base import Round, Strategy, Unsuitable
from trace_cl.strategies.l2p import L2P
from trace_cl.strategies.lora_seqft import LoraSeqFT
from trace_cl.strategies.o_lora import OLoRA
from trace_cl.strategies.p_tuning import PTuning
from trace_cl.strategies.progressive_prompts import ProgressivePrompts
from trace_cl.strategies.prompts import FILE

TASKS = [FakeTask(name, seed) for seed, name in enumerate("ab")]
ROUNDS = [Round(1, TASKS[:t], []) for t in (1, 2)]
FILES: dict[type[Strategy], str] = {
    AdaLoRA: "adapter_model.safetensors",
    LoraSeqFT: "adapter_model.safetensors",
    OLoRA: "adapter_model.safetensors",
    PTuning: "adapter_model.safetensors",
    ProgressivePrompts: FILE,
    L2P: FILE,
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda saved, first: saved.pop(first), "{file} lacks {first}; move the run away and start anew"),
        (lambda saved, first: saved.update(new=torch.ones(1)), "{file} holds new, which has no place in the model; "),
    ],
)
def test_a_checkpoint_that_lacks_a_tensor_or_has_another_is_refused(
    kind: type[Strategy],
    change: Callable[[dict[str, Tensor], str], object],
    said: str,
    small_model: Path,
    tmp_path: Path,
) -> None:
    def load(folder: Path | None) -> LlamaForCausalLM:
        return LlamaForCausalLM.from_pretrained(small_model)

    strategy, file = kind(), tmp_path / FILES[kind]
    model = strategy.build(load, None, ROUNDS)
    strategy.save_model(model, tmp_path, None)
    again = strategy.build(load, tmp_path, ROUNDS)
    ours, theirs = (built.state_dict() for built in (model, again))
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())

    saved = load_file(file)
    first = sorted(saved)[0]
    change(saved, first)
    save_file(saved, file, metadata={"format": "pt"})
    with pytest.raises(Unsuitable) as refused:
        strategy.build(load, tmp_path, ROUNDS)
    assert str(refused.value).startswith(said.format(file=file, first=first))


@pytest.mark.parametrize("content", [b"", b"torn" * 9])
def test_a_torn_checkpoint_is_refused(content: bytes, small_model: Path, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(Unsuitable, match=f"{FILE} is no whole safetensors file"):
        ProgressivePrompts().build(lambda _: LlamaForCausalLM.from_pretrained(small_model), tmp_path, ROUNDS)


def test_prompts_of_another_length_are_refused(small_model: Path, tmp_path: Path) -> None:
    def load(folder: Path | None) -> LlamaForCausalLM:
        return LlamaForCausalLM.from_pretrained(small_model)

    longer = ProgressivePrompts(prompt_tokens=11)
    longer.save_model(longer.build(load, None, ROUNDS), tmp_path, None)
    with pytest.raises(Unsuitable, match=r"holds prompt1 as \[11, 16\], where the model has \[10, 16\]"):
        ProgressivePrompts(prompt_tokens=10).build(load, tmp_path, ROUNDS)


def test_an_adapter_of_another_rank_is_refused(small_model: Path, tmp_path: Path) -> None:
    def load(folder: Path | None) -> LlamaForCausalLM:
        return LlamaForCausalLM.from_pretrained(small_model)

    larger = LoraSeqFT(r=4)
    larger.save_model(larger.build(load, None, ROUNDS), tmp_path, None)
    with pytest.raises(Unsuitable, match=r"holds .*lora_A\.weight as \[4, 16\], where the model has \[8, 16\]; move"):
        LoraSeqFT(r=8).build(load, tmp_path, ROUNDS)
