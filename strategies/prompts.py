"""Soft prompts: tokens that are learned, the model being frozen. Their ids follow the vocabulary's.

A prompt is then a run of ids before the text's, wherever a text may stand: padded, batched, answered.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from .base import shape_of
from .tensors import read_tensors

FILE = "prompts.safetensors"


class PromptEmbedding(nn.Module):
    """The model's embedding, with a few more tokens: those of the prompts (tokens × H each), in their order."""

    def __init__(self, words: nn.Module, prompts: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.words = words
        self.first = size_of(words)
        for name, prompt in prompts.items():
            # Parameters of this very module, which is how DeepSpeed knows when to bring their shards together.
            self.register_parameter(name, nn.Parameter(prompt))

    def forward(self, ids: Tensor) -> Tensor:
        """Ids B × L; their embeddings B × L × H."""
        own = ids >= self.first
        table = torch.cat(list(self.parameters(recurse=False)))
        words: Tensor = self.words(ids.masked_fill(own, 0))
        return torch.where(own[..., None], table[(ids - self.first).clamp(min=0)].to(words.dtype), words)


def size_of(embedding: nn.Module) -> int:
    """How many tokens an embedding knows."""
    return int(shape_of(embedding.get_parameter("weight"))[0])


def words_at_random(words: nn.Module, shape: tuple[int, ...], seed: int) -> Tensor:
    """Embeddings (`shape` × H) of words of the vocabulary, which is what a prompt begins as (Lester et al., EMNLP 2021,
    arXiv 2104.08691, section 3.2)."""
    ids = torch.randint(size_of(words), shape, generator=torch.Generator().manual_seed(seed))
    embeddings: Tensor = words(ids.to(words.get_parameter("weight").device))
    return embeddings.detach()


def set_embedding(model: PreTrainedModel, embedding: nn.Module, checkpoint: Path | None) -> None:
    """Give the model this embedding, which has its own as `words`; what it adds to it is as it begins, or as
    `save_added` left it in the checkpoint."""
    if checkpoint is not None:
        added = {name: p for name, p in embedding.named_parameters() if not name.startswith("words.")}
        saved = read_tensors(checkpoint / FILE, {name: shape_of(p) for name, p in added.items()})
        with torch.no_grad():
            for name, parameter in added.items():
                parameter.copy_(saved[name])
    model.set_input_embeddings(embedding)


def added(model: nn.Module) -> dict[str, str]:
    """The parameters that the model's embedding adds to its words: their names in it, by their names in the model."""
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    [path] = [path for path, module in model.named_modules() if module is embedding]
    names = (name for name, _ in embedding.named_parameters() if not name.startswith("words."))
    return {f"{path}.{name}": name for name in names}


def save_added(model: PreTrainedModel, folder: Path, weights: dict[str, Tensor] | None) -> None:
    """Write what the embedding adds, and no more: the model is as it was. Takes what `Strategy.save_model` takes."""
    everything = model.state_dict() if weights is None else weights
    prompts = {name: everything[full].contiguous().cpu() for full, name in added(model).items() if full in everything}
    save_file(prompts, folder / FILE)
