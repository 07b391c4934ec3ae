"""How many floating-point operations learning needs, and how many a device does: their quotient is the utilisation."""

import statistics
from collections.abc import Sequence
from time import perf_counter

import torch
from transformers import PreTrainedModel

from trace_cl.strategies.base import Example, shape_of
from trace_cl.strategies.layers import decoder_layers, matrices

SHEET = {"B200": 2250, "H200": 989, "H100": 989, "A100": 312, "L40S": 362}
"""Dense bf16 TFLOP/s by NVIDIA's data sheets, by what a device's name holds."""


def needed(model: PreTrainedModel, examples: Sequence[Example]) -> int:
    """Operations of a forward and a backward pass over these examples, a multiplication with its addition being two.

    A matrix works three times on a token if it learns (forward, its input's gradient, its own), else twice: 6N and 4N
    (PaLM, arXiv 2204.02311, appendix B). Unlike there attention is causal, half of a square, and the head works at
    the answer tokens alone. Padding, and layers that are computed a second time, are not needed and not counted. The
    model is dense: of a mixture's experts not all work.
    """
    config = model.config.get_text_config()
    head = model.get_output_embeddings().weight
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    layers = decoder_layers(model).values()
    inside = sum(_of_a_token(weight) for layer in layers for _, weight in matrices(layer))
    # Scores, and values weighted by them, n²/2 each forwards; twice as much backwards.
    squares = 3 * 2 * len(layers) * width
    return sum(
        inside * (len(example) - 1) + _of_a_token(head) * len(example.answer) + squares * (len(example) - 1) ** 2
        for example in examples
    )


def _of_a_token(matrix: torch.nn.Parameter) -> int:
    return 2 * (3 if matrix.requires_grad else 2) * shape_of(matrix).numel()


def of_a_product(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Operations a second in a product of two square matrices: the median of ten."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(11):
        began = perf_counter()
        torch.matmul(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(perf_counter() - began)
    return 2 * size**3 / statistics.median(seconds[1:])


def by_data_sheet(name: str) -> float | None:
    """Operations a second that a device of this name is sold with, where that is known."""
    return next((1e12 * peak for known, peak in SHEET.items() if known in name), None)
