"""A model's folder, and whether it holds what it says: its configuration, its files, its weights by name.

transformers makes up what is missing and passes over what has no place: a model whose weights are not those of its
configuration would be trained and scored without a word. Nothing here reads a weight; a tensor's name, shape and type
stand in the head of its file.
"""

import json
import math
import re
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from trace_cl.errors import UserError
from trace_cl.strategies.layers import decoder_layers

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""The weights in one file; or what says which of several files holds which tensor."""

OBJECTS = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", INDEX)
"""The files that hold a JSON object each, where they are there."""

SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings"),
    *("num_attention_heads", "num_key_value_heads", "n_embd", "n_layer", "n_head", "n_positions"),
)
"""What a configuration calls its sizes."""

FLOATS = ("F64", "F32", "F16", "BF16")
AS_IT_CAME = "take the file as it came with the model"
TAKE_WHOLE = "such weights cannot be trained, take those in bf16 or fp32"

KNOWN_BUFFERS = re.compile(r"\.(attn|attention)\.(masked_)?bias$")
"""Masks that earlier versions of transformers wrote beside the weights of GPT-2 and its kin. (Of what else they wrote,
as rotary frequencies, transformers itself says that it may be there.)"""


def check_folder(folder: Path) -> None:
    """Raise UserError, naming the file, where the folder holds no model that could be trained."""
    try:
        names = {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()
    except OSError as error:
        raise UserError(f"model.path={folder}: {error.strerror}; set it to a folder in Hugging Face layout") from error
    if "config.json" not in names:
        raise UserError(f"{folder} holds no model (no config.json): set model.path to a folder in Hugging Face layout")
    if not any(name.endswith(".safetensors") for name in names):
        raise UserError(
            f"{folder} holds no *.safetensors: weights are never read from pickle files; convert them first"
        )
    if "adapter_config.json" in names:
        raise UserError(f"{folder} holds an adapter (adapter_config.json), not a model: merge it into its model first")
    objects = {name: _read_object(folder / name) for name in OBJECTS if name in names}
    ends = objects.get("generation_config.json", {}).get("eos_token_id")
    if not all(isinstance(end, int | None) for end in (ends if isinstance(ends, list) else [ends])):
        raise UserError(f"{folder / 'generation_config.json'}: eos_token_id={ends} is no token's number")
    if "tokenizer.json" in objects and (missing := {"model", "added_tokens"} - objects["tokenizer.json"].keys()):
        raise UserError(f"{folder / 'tokenizer.json'} has no {max(missing)} in it; {AS_IT_CAME}")
    config = read_config(folder)
    model = model_on_meta(config, str(folder / "config.json"))
    held = sum(math.prod(tensor.shape) for tensor in stored_tensors(folder).values())
    if (wanted := sum(p.numel() for p in set(model.parameters()))) > 2 * held:  # a tied head is in both, or in one
        raise UserError(
            f"{folder}: config.json describes a model of {wanted:,} parameters, and the weights beside it are "
            f"{held:,}; take both from one model"
        )


def read_config(folder: Path) -> PretrainedConfig:
    """The configuration of a folder's model. Raises UserError for one of no model that could be trained."""
    path = folder / "config.json"
    content = _read_object(path)
    if content.get("auto_map"):
        raise UserError(
            f"{path}: auto_map asks for code that comes with the model, which is never run; "
            "take a model that transformers itself knows"
        )
    if content.get("quantization_config"):
        raise UserError(f"{path}: its weights are quantised (quantization_config); {TAKE_WHOLE}")
    check_sizes(content, str(path))
    with reading(f"{path} describes no model"):
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return config


def of_sizes(sizes: Mapping[str, Any]) -> PretrainedConfig:
    """The configuration that a model's YAML writes out. Raises UserError for one of no model."""
    check_sizes(sizes, "model.architecture")
    with reading("model.architecture describes no model"):
        config: PretrainedConfig = AutoConfig.for_model(**sizes)
    model_on_meta(config, "model.architecture")
    return config


def check_sizes(sizes: Mapping[str, Any], where: str) -> None:
    """Raise UserError for a size that is none."""
    for name in SIZES:
        if isinstance(size := sizes.get(name), int) and size < 1:
            raise UserError(f"{where}: {name}={size} must be at least 1")
    heads, shared = sizes.get("num_attention_heads"), sizes.get("num_key_value_heads")
    if isinstance(heads, int) and isinstance(shared, int) and heads % shared:
        raise UserError(f"{where}: num_attention_heads={heads} is no multiple of num_key_value_heads={shared}")


def model_on_meta(config: PretrainedConfig, where: str) -> PreTrainedModel:
    """The model that a configuration describes. Raises UserError where it describes none with layers to train."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"{where}: {config.model_type} is no language model that answers a text by going on with it; take a "
            "decoder-only one"
        )
    with reading(f"{where} describes no model"):
        model = build_on_meta(config)
        decoder_layers(model)
    return model


def build_on_meta(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model without weights, to count."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    return model


def refuse_unless_whole(
    where: str, missing: Collection[str], unexpected: Collection[str], mismatched: Collection[tuple[str, Any, Any]]
) -> None:
    """Raise UserError, naming tensors, where weights are not just those that are asked for.

    `mismatched` are names with the shape that was found and the one that is asked for.
    """
    without_place = [name for name in unexpected if not KNOWN_BUFFERS.search(name)]
    others = [f"{name} {_shape(found)} instead of {_shape(asked)}" for name, found, asked in mismatched]
    parts = [
        f"{said} {_first(names)}"
        for said, names in (("lack", missing), ("have no place for", without_place), ("hold", others))
        if names
    ]
    if parts:
        raise UserError(
            f"{where}: its weights are not those of its configuration, they {' and '.join(parts)}: "
            "take both from one model"
        )


@contextmanager
def reading(what_is_wrong: str) -> Iterator[None]:
    """Turn whatever a library trips over in somebody's files into a UserError: the files are what is to be mended."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        # What transformers checks of a configuration it wraps in errors that repeat one another.
        reason = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error
        said = " ".join(str(reason).split()).partition(". ")[0].rstrip(".")
        kind = f"{type(reason).__name__} " if isinstance(reason, LookupError | AttributeError) else ""
        raise UserError(f"{what_is_wrong}: {kind}{said}") from error


def _read_object(path: Path) -> dict[str, Any]:
    with reading(f"{path} is not valid JSON"):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object; {AS_IT_CAME}")
    return content


class StoredTensor(NamedTuple):
    """Where a tensor lies: the bytes from `begin` to before `end` of its file, and what they are."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor in the files that are loaded, by name. Raises UserError for a file that is torn or missing."""
    found: dict[str, StoredTensor] = {}
    for path in weight_files(folder):
        with reading(f"{path} is no whole safetensors file, fetch it again"), safe_open(path, framework="pt"):
            found |= _header(path)
    for name, tensor in found.items():
        if name.endswith("weight") and tensor.dtype not in FLOATS:
            raise UserError(f"{tensor.file}: {name} is quantised ({tensor.dtype}); {TAKE_WHOLE}")
    return found


def weight_files(folder: Path) -> list[Path]:
    """The files that are loaded. Raises UserError where one is missing."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        raise UserError(f"{folder} holds neither {SINGLE} nor {INDEX}: give the weights one of these names")
    listed = _read_object(folder / INDEX).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise UserError(f"{folder / INDEX} has no weight_map; {AS_IT_CAME}")
    paths = [folder / name for name in sorted(set(map(str, listed.values())))]
    for path in paths:
        if not path.is_file() or path.parent != folder:
            raise UserError(f"{path} is missing, and {INDEX} names it: fetch it again")
    return paths


def _header(path: Path) -> dict[str, StoredTensor]:
    """What a file says of its tensors (huggingface.co/docs/safetensors, "Format"); safe_open has checked it."""
    with path.open("rb") as file:
        [length] = struct.unpack("<Q", file.read(8))
        said = json.loads(file.read(length))
    said.pop("__metadata__", None)
    found = {}
    for name, about in said.items():
        begin, end = (8 + length + offset for offset in about["data_offsets"])
        found[name] = StoredTensor(path, about["dtype"], tuple(about["shape"]), begin, end)
    return found


def _first(names: Collection[str]) -> str:
    first, *others = sorted(names)
    return f"{first} and {len(others)} more" if others else first


def _shape(sizes: Collection[int]) -> str:
    return " × ".join(map(str, sizes)) or "a number"
