"""The answers of a run, and what was asked: one line an example, `predictions/round<t>/<task>.jsonl`.

The prompts are the same in every round, so they are kept once, in `prompts/<task>.jsonl`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trace_cl.records.files import as_object, is_score, whole


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


def read_predictions(path: Path) -> list[dict[str, Any]]:
    """A line an example: index, prediction, reference, score. Raises UserError naming the file and the faulty line."""
    kinds = {"index": _is_index, "prediction": _is_text, "reference": _is_text, "score": is_score}
    return whole(path, lambda: _read_lines(path, kinds))


def kept_answers(folder: Path, round: int, task: str) -> list[dict[str, Any]]:
    """Those of a run's cell; none where they were not kept. Raises as `read_predictions`."""
    path = folder / "predictions" / f"round{round}" / f"{task}.jsonl"
    return read_predictions(path) if whole(path, path.exists) else []


def read_prompts(path: Path) -> dict[int, str]:
    """The prompts by index. Raises UserError naming the file and the faulty line."""
    lines = whole(path, lambda: _read_lines(path, {"index": _is_index, "prompt": _is_text}))
    return {line["index"]: line["prompt"] for line in lines}


def _read_lines(path: Path, kinds: Mapping[str, Callable[[object], bool]]) -> list[dict[str, Any]]:
    lines = []
    with path.open(encoding="utf-8") as file:  # not splitlines(), which breaks an answer at U+2028
        for number, text in enumerate(file, start=1):
            try:
                line = as_object(text)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            for key, fits in kinds.items():
                if key not in line:
                    raise ValueError(f"line {number} has no {key}")
                if not fits(line[key]):
                    raise ValueError(f"line {number}: its {key} is none")
            lines.append(line)
    return lines


def _is_index(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_text(value: object) -> bool:
    return isinstance(value, str)
