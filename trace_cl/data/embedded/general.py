"""General text: documents of the skills that the tiny model was pretrained on, which it has not seen, and no task's."""

import re
from itertools import islice

from trace_cl.tiny.material import Piece, documents, text

SEED = 3
"""Not 1 nor 2, which the tokenizer and the weights were made with (`trace_cl/tiny/pretrain.py`)."""

_COUNT = 200


def generate() -> list[dict[str, str]]:
    """Rows `{"prompt", "answer"}`, one a document, the same in every call."""
    return [_row(pieces) for pieces in islice(documents(SEED), _COUNT)]


def _row(pieces: list[Piece]) -> dict[str, str]:
    """A document's last reply and what stands before it; of one in a single piece, all that follows its first word (in
    Chinese its first sentence)."""
    *before, (last, _) = pieces
    if before:
        return {"prompt": text(before), "answer": last}
    begins = re.split(r"(?=[\s。])", last, maxsplit=1)
    return {"prompt": begins[0], "answer": begins[1]}
