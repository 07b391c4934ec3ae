"""QLoRA (Dettmers et al., NeurIPS 2023, arXiv 2305.14314): one low-rank adapter learns through all tasks, on a frozen
model whose matrices are held in 4 bits: bitsandbytes' NF4, its block-wise scales quantised once more."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from .base import LoadModel, Round, Strategy, Unsuitable
from .layers import linear_layers
from .lora_seqft import LoraSeqFT, is_adapter

BLOCK, BLOCKS = 64, 256
"""Weights that share a scale, and scales that share one of their own (the paper's section 3)."""


@dataclass
class QLoRA(Strategy):
    """Sequential fine-tuning of an adapter on a model in 4 bits.

    `r` is the adapter's rank, `alpha` / `r` the factor it is added with, `dropout` that of its input. `target_modules`
    are the matrices that have one, by the ends of their names; null: all linear ones of the layers, as in the paper.
    All of these are held in 4 bits, with an adapter or without; embeddings, norms and head as they were. The model is
    quantised when it is loaded, and never saved: the checkpoint is the adapter alone, in peft's own layout.
    """

    r: int = 64  # the paper's, appendix B.2, as the three below
    alpha: int = 16
    dropout: float = 0.1  # up to 13 billion parameters; 0.05 for larger models
    target_modules: list[str] | None = None

    name = "qlora"
    uses = frozenset({"whole_weights"})
    changes_architecture = True

    def __post_init__(self) -> None:
        """Raise ValueError naming the key, or what is to be installed."""
        self.adapter = LoraSeqFT(self.r, self.alpha, self.dropout, self.target_modules)
        try:
            import_module("bitsandbytes")
        except ModuleNotFoundError as error:
            raise ValueError(f"strategy=qlora needs {error.name}: pip install 'trace-cl[qlora]'") from error

    def build(self, load: LoadModel, checkpoint: Path | None, rounds: Sequence[Round]) -> PreTrainedModel:
        model = load(None)
        dtype, matrices = model.dtype, linear_layers(model)
        for matrix in matrices:
            quantise(model, matrix)
        named = list(dict.fromkeys(name.rpartition(".")[2] for name in matrices))
        adapter = replace(self.adapter, target_modules=self.target_modules or named)
        adapted = adapter.build(lambda _: model, checkpoint, rounds)
        # On a matrix that is not of floating point peft leaves it in fp32.
        for name, parameter in adapted.named_parameters():
            if is_adapter(name):
                parameter.data = parameter.data.to(dtype)
        return adapted

    def save_model(self, model: PreTrainedModel, folder: Path, weights: dict[str, Tensor] | None) -> None:
        self.adapter.save_model(model, folder, weights)

    def trainable(self, round: Round, step: int, model: nn.Module) -> Collection[str] | None:
        """The adapter, in every round."""
        return self.adapter.trainable(round, step, model)


def quantise(model: PreTrainedModel, name: str) -> None:
    """Hold a linear layer's matrix in 4 bits. One without values stays as it is, and tells what it would take.

    Raises Unsuitable for a matrix that bitsandbytes (0.50) does not unpack on a CPU as it packed it.
    """
    linear = model.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    if linear.in_features % BLOCK:
        raise Unsuitable(
            f"strategy=qlora packs weights in blocks of {BLOCK}, which do not go into the rows of {name} "
            f"({linear.in_features} wide): take another model, or strategy=lora_seqft"
        )
    if linear.weight.is_meta:
        vars(linear.weight)["held_bytes"] = bytes_in_4_bits(linear.weight.numel())
        return
    bnb: Any = import_module("bitsandbytes.nn")
    quantised = bnb.Linear4bit(
        linear.in_features, linear.out_features, compute_dtype=model.dtype, quant_type="nf4", device="meta"
    )
    quantised.weight = bnb.Params4bit(linear.weight.data, quant_type="nf4", module=quantised)
    quantised.bias = linear.bias
    # On some CPUs it would round weights and inputs to bf16 once more, for good, as soon as it answers.
    quantised.support_avx512bf16_for_cpu = False
    model.set_submodule(name, quantised.to(linear.weight.device))
    vars(model)["is_loaded_in_4bit"] = True  # by which peft knows what it adapts


def bytes_in_4_bits(numbers: int) -> int:
    """What bitsandbytes makes of a matrix: 4 bits a weight, 8 a block's scale, 32 the scale of many scales; and the
    values that the bits stand for, 16 of the weights and 256 of the scales, beside the scales' mean."""
    scales = -(-numbers // BLOCK)
    return -(-numbers // 2) + scales + 4 * (-(-scales // BLOCKS)) + 4 * (16 + 256 + 1)
