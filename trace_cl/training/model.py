"""Models and tokenizers: loaded from safetensors alone, never with remote code; or built without weights, to count."""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import torch
from huggingface_hub import auth_check, snapshot_download
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from trace_cl.data.benchmark import Task
from trace_cl.errors import UserError
from trace_cl.records.files import PACKAGE, flatten
from trace_cl.strategies.base import bytes_of, shape_of
from trace_cl.strategies.layers import module_of
from trace_cl.training.folder import build_on_meta as build_on_meta
from trace_cl.training.folder import check_folder, read_config, reading, refuse_unless_whole

# What goes wrong at the hub is told in our own one sentence.
logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
hf_logging.set_verbosity_error()
# Where DeepSpeed is installed transformers imports it to save a model, and it warns of a machine without a GPU.
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
hf_logging.disable_progress_bar()

FILES = ["*.json", "*.safetensors", "tokenizer*", "*.txt", "*.jinja"]
"""What is downloaded of a hub model."""

UNUSED = re.compile("summary|classifier")
"""Dropout of the heads that a language model has not, though its configuration names it."""


def locate(source: str, path: str | None) -> str:
    """The folder a model is loaded from: `path`, one of this package (`pkg://…`), or a download from the hub.

    Raises UserError where there is no model, or one that could not be what it says it is (`check_folder`).
    """
    if path is not None:
        folder = Path(path)
    elif source.startswith("pkg://"):
        folder = PACKAGE / source.removeprefix("pkg://")
    else:
        folder = download(source)
    check_folder(folder)
    return str(folder)


def download(source: str) -> Path:
    """A hub model's files, from the cache where they are there already. Raises UserError where they cannot be had."""
    unreachable = _hub_is_unreachable()
    try:
        return Path(snapshot_download(source, allow_patterns=FILES, local_files_only=unreachable is not None))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        reason = " ".join(str(unreachable or error).split()).partition(". ")[0]
        raise UserError(
            f"{source} could not be fetched from the Hugging Face hub ({reason}): "
            "download it where there is a network, and set model.path=DIR to the folder"
        ) from error


def why_absent(source: str, path: str | None) -> str | None:
    """Why `locate` would find no model, asked without downloading one; None where it would."""
    try:
        if path is not None or source.startswith("pkg://"):
            locate(source, path)
        else:
            locate(source, snapshot_download(source, allow_patterns=FILES, local_files_only=True))
    except (UserError, HFValidationError) as error:
        return str(error)
    except LocalEntryNotFoundError:
        if _hub_is_unreachable():
            return f"{source} is not on this machine, and the Hugging Face hub cannot be reached"
        try:
            auth_check(source)
        except HfHubHTTPError:
            return f"the Hugging Face hub does not give {source} to you: ask for access there, then `hf auth login`"
    return None


def _hub_is_unreachable() -> OSError | None:
    """Why the hub does not answer, asked once: a download would go on trying for most of a minute."""
    try:
        urlopen(ENDPOINT, timeout=10).close()
    except HTTPError:
        return None  # an answer, if an unfriendly one
    except OSError as error:
        return error
    return None


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder. Raises UserError where there is none, none with an end-of-sequence token, or one of
    more tokens than the model beside it has."""
    with reading(f"{folder} holds no tokenizer that can be read"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not tokenizer.vocab_size:
        raise UserError(f"{folder}: its tokenizer has no tokens; take the one that belongs to the model")
    if tokenizer.eos_token_id is None:
        raise UserError(f"{folder}: its tokenizer has no end-of-sequence token, which every answer must end with")
    if (Path(folder) / "config.json").exists():  # an adapter's folder has a tokenizer, and no model
        vocabulary = read_config(Path(folder)).get_text_config().vocab_size
        # What a tokenizer's class adds to its own tokens (Qwen2's does) may have no place in the model: nobody uses it.
        needed = max(tokenizer.vocab_size, tokenizer.eos_token_id + 1)
        if needed > vocabulary:
            raise UserError(
                f"{folder}: its tokenizer has {needed} tokens and its model {vocabulary} (vocab_size in config.json); "
                "take the tokenizer that belongs to the model"
            )
    return tokenizer


def load_model(folder: str, dtype: torch.dtype, name: str | None = None) -> PreTrainedModel:
    """The model of a folder, in main memory and evaluation mode. Raises UserError where it cannot be read, or its
    weights are not just those that its configuration asks for.

    `name` is what others know it by: an adapter names its base so, and not by a folder of this machine.
    """
    with reading(f"{folder} holds no model that can be read"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
        )
    model: PreTrainedModel = loaded[0]
    found: dict[str, Any] = loaded[1]
    refuse_unless_whole(folder, found["missing_keys"], found["unexpected_keys"], found["mismatched_keys"])
    if name is not None:
        model.name_or_path = model.config._name_or_path = name
    model.eval()
    return model


def check_positions(model: PreTrainedModel, tasks: Sequence[Task], taken: Sequence[int]) -> None:
    """Raise UserError where a task's texts are longer than what the model has positions for, learned or answered, once
    so many (one number a task) are `taken` by what a strategy puts before them."""
    positions: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is None:
        return
    for task, before in zip(tasks, taken, strict=True):
        prompt = max(map(len, task.prompts), default=0)
        longest = max(prompt + task.answer_tokens if prompt else 0, *map(len, task.train))
        if before + longest > positions:
            prompts = f" (the strategy's {before} among them)" if before else ""
            raise UserError(
                f"{task.name} needs {before + longest} positions{prompts}, "
                f"and the model has {positions} (max_position_embeddings): "
                f"lower training.total_tokens, evaluation.prompt_tokens or benchmark.tasks.{task.name}.answer_tokens "
                f"({task.answer_tokens}), or take another model"
            )


def cut_matters(model: PreTrainedModel) -> bool:
    """Whether what is drawn at random in training follows how a batch is cut and dealt out: a model's own dropout (not
    `ExampleDropout`), and the noise of a mixture's router."""
    modules = any(isinstance(module, _DropoutNd) and module.p > 0 for module in model.modules())
    settings = flatten(model.config.to_dict())
    random = (value for key, value in settings if re.search("drop|jitter", key) and not UNUSED.search(key))
    return modules or any(isinstance(value, float | int) and value > 0 for value in random)


def is_spread(model: nn.Module) -> bool:
    """Whether each rank holds a part of the weights only (ZeRO-3), so that all must go through the model in step."""
    return any(hasattr(parameter, "ds_tensor") for parameter in model.parameters())


def frozen_modules(model: nn.Module) -> list[str]:
    """The names of the modules none of whose own parameters learn."""
    learns: dict[str, bool] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):  # a tied head is named too
        learns[module_of(name)] = learns.get(module_of(name), False) or parameter.requires_grad
    return [module for module, some in learns.items() if not some]


def whole_bytes(model: nn.Module) -> int:
    """What a model's parameters take, whole."""
    return sum(bytes_of(p, p.dtype) for p in set(model.parameters()))


def count(parameters: Sequence[nn.Parameter] | set[nn.Parameter], trainable: bool = False) -> int:
    """How many numbers these parameters hold; or only those that learn."""
    return sum(shape_of(p).numel() for p in parameters if p.requires_grad or not trainable)
