"""What is loaded is what the folder holds: no tensor made up, none passed over."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, SIZES, with_weights
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from trace_cl.errors import UserError
from trace_cl.training.folder import check_folder
from trace_cl.training.model import load_model


def same(model: torch.nn.Module, weights: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(value, weights[name]) for name, value in model.state_dict().items() if name in weights)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """A folder with a small random model of an architecture."""

    def save(architecture: str, **sizes: Any) -> Path:
        with_weights(architecture, **sizes).save_pretrained(tmp_path / architecture)
        return tmp_path / architecture

    return save


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gpt2", "bloom", "falcon", "phi"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_whole_model_is_loaded_as_it_is(architecture: str, tied: bool, saved: Callable[..., Path]) -> None:
    folder = saved(architecture, tie_word_embeddings=tied)
    check_folder(folder)
    loaded = load_model(str(folder), torch.float32)
    assert same(loaded, AutoModelForCausalLM.from_pretrained(folder).state_dict())
    head, words = (loaded.get_output_embeddings().weight, loaded.get_input_embeddings().weight)
    assert (head is words) == tied


def test_a_tied_head_may_be_in_the_file_as_well(saved: Callable[..., Path]) -> None:
    folder = saved("llama", tie_word_embeddings=True)
    weights = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in weights
    both = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    save_file(both, folder / "model.safetensors", metadata={"format": "pt"})
    check_folder(folder)
    assert same(load_model(str(folder), torch.float32), both)


def test_a_model_in_several_files(small_model: Path, tmp_path: Path) -> None:
    whole = LlamaForCausalLM.from_pretrained(small_model)
    whole.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    check_folder(tmp_path)
    assert same(load_model(str(tmp_path), torch.float32), whole.state_dict())


def test_buffers_that_earlier_versions_wrote_are_let_be(tmp_path: Path) -> None:
    """As the hub's own GPT-2 and early Llamas have them: names without prefix, masks, frequencies."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=32, n_positions=16))
    model.save_pretrained(tmp_path / "gpt2")
    old = {
        name.removeprefix("transformer."): value.clone()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 16, 16).bool() for layer in range(2)}
    save_file({**old, **masks}, tmp_path / "gpt2" / "model.safetensors", metadata={"format": "pt"})
    check_folder(tmp_path / "gpt2")
    assert same(load_model(str(tmp_path / "gpt2"), torch.float32), model.state_dict())

    llama = LlamaForCausalLM(LlamaConfig(**SIZES))
    llama.save_pretrained(tmp_path / "llama")
    file = tmp_path / "llama" / "model.safetensors"
    frequencies = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(2) for layer in range(4)}
    save_file({**load_file(file), **frequencies}, file, metadata={"format": "pt"})
    check_folder(tmp_path / "llama")
    assert same(load_model(str(tmp_path / "llama"), torch.float32), llama.state_dict())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda weights: {k: v for k, v in weights.items() if k != "model.norm.weight"}, "lack model.norm.weight:"),
        (lambda weights: {**weights, "new.weight": torch.ones(2)}, "have no place for new.weight:"),
        (
            lambda weights: {**weights, "model.norm.weight": torch.ones(8)},
            r"hold model.norm.weight 8 instead of 16:",
        ),
        (
            lambda weights: {f"net.{k}": v for k, v in weights.items()},
            r"lack lm_head.weight and 38 more and have no place for net.lm_head.weight and 38 more:",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], named: str, saved: Callable[..., Path]
) -> None:
    folder = saved("llama")
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=named):
        load_model(str(folder), torch.float32)


def test_the_one_file_is_read_and_not_the_list_of_several_beside_it(small_model: Path, tmp_path: Path) -> None:
    """As transformers reads it, so that what was checked is what is loaded."""
    whole = LlamaForCausalLM.from_pretrained(small_model)
    whole.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "nowhere.safetensors"}}))
    check_folder(tmp_path)
    assert same(load_model(str(tmp_path), torch.float32), whole.state_dict())
