"""The answers of a run, and what was asked: one line an example, `predictions/round<t>/<task>.jsonl`.

The prompts are the same in every round, so they are kept once, in `prompts/<task>.jsonl`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Prediction:
    """What the model answered to one example, the reference, and the score (0–100) by each variant of the metric."""

    index: int
    prediction: str
    reference: str
    scores: dict[str, float]


def as_lines(predictions: Sequence[Prediction], variant: str) -> str:
    """The file's content: of each example the score that counts, and both variants of it."""
    lines = (
        {"index": p.index, "prediction": p.prediction, "reference": p.reference, "score": p.scores[variant], **p.scores}
        for p in predictions
    )
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def prompts_as_lines(indices: Sequence[int], prompts: Sequence[str]) -> str:
    """The content of `prompts/<task>.jsonl`: of each example that is scored its index and the text of its prompt."""
    lines = ({"index": index, "prompt": prompt} for index, prompt in zip(indices, prompts, strict=True))
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of such files, or of train.jsonl."""
    with path.open(encoding="utf-8") as file:  # not splitlines(), which breaks an answer at U+2028
        return [json.loads(line) for line in file]
