"""Table 5 of the HFT paper: sparse fine-tuning, merging and freezing beside HFT, and our own runs of these methods.

Published are nine abilities of Llama-2-7B after instruction tuning and preference optimisation, and their mean. Of
our runs, which are instruction-tuned on nothing, OP, BWT and the loss on general text stand in for them.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from trace_cl.analysis.losses import GENERAL
from trace_cl.analysis.shown import Shown, cell, contradictions, heading
from trace_cl.analysis.stored import StoredRun, finished, last
from trace_cl.analysis.text import number, over_seeds
from trace_cl.records.files import PUBLISHED, read_json

MEAN = "overall"

FIGURES = {"OP": 1, "BWT": 1, "loss": 2}
"""What stands in for the abilities, and its decimals; the loss is that on general text."""

REFERENCE = "full fine-tuning"

METHODS = {
    "LoRA": "lora_seqft",
    "QLoRA": "qlora",
    "AdaLoRA": "adalora",
    "P-tuning": "p_tuning",
    "Mixout": "mixout",
    "TIES (P+S)": "merge-how_ties-other_base-weight1",
    "DARE (P+S)": "merge-how_dare-other_base-weight1",
    "TIES (S+D)": "merge-how_ties",
    "DARE (S+D)": "merge-how_dare",
    "Average (S+D)": "merge",
    "AutoFreeze": "autofreeze",
    "LISA": "lisa",
    "HFT (S)": "seqft+hft",
    "SeqFT": "seqft",
}
"""Whose runs stand in each row. Merging with the pretrained model (P+S) is merging with the base, merging the results
of two stages (S+D) is merging with the round before. SmartFRZ has none: its predictor was never published."""


def printed() -> dict[str, Any]:
    """table5.json: the abilities, and by group and row what the paper prints of each, and of their mean."""
    return read_json(PUBLISHED / "table5.json")


def make(model: str, benchmark: str, runs: Path, published_only: bool) -> Shown:
    """The table, with this model's runs. Raises UserError for a run that is damaged."""
    said = printed()
    groups = {group: dict(rows) for group, rows in said["groups"].items()}
    if not published_only:
        groups[REFERENCE] = {"SeqFT": {}}
    lines: list[dict[str, Any]] = []
    texts: dict[str, dict[str, str]] = {}
    missing = False
    for group, rows in groups.items():
        texts[heading(group)] = {}
        for row, figures in rows.items():
            theirs = published_lines(row, said["abilities"], figures)
            lines += theirs
            texts[row] = {line["column"]: number(line["published"]) for line in theirs}
            if not published_only and row in METHODS:
                runs_of_row = finished(runs / benchmark, model, METHODS[row])
                missing |= not runs_of_row
                values = own_figures(runs_of_row)
                lines += [cell(row, column, None, values[column]) for column in FIGURES]
                texts[row] |= {column: over_seeds(values[column], digits) for column, digits in FIGURES.items()}
                texts[named(row, runs_of_row)] = texts.pop(row)
    columns = [*said["abilities"], MEAN, *([] if published_only else FIGURES)]
    wide = pd.DataFrame.from_dict(texts, orient="index").reindex(index=list(texts), columns=columns)
    caption = f"Table 5: {', '.join(said['groups'])}: abilities of {said['model']} and their mean, as published"
    if not published_only:
        caption += (
            f"; ours: {model} on {benchmark}, where OP, BWT and the {GENERAL} (nats a token) stand in for the abilities"
        )
    tidy = pd.DataFrame(lines)
    notes = contradictions(5, tidy, "its nine abilities")
    return Shown(tidy, wide.fillna("").rename_axis(index=""), caption, notes, missing)


def published_lines(row: str, abilities: list[str], figures: dict[str, Any]) -> list[dict[str, Any]]:
    """What the paper prints of a row, with the mean recomputed; nothing of a row that it has not."""
    if not figures:
        return []
    scores = figures["scores"]
    lines = [cell(row, ability, score, []) for ability, score in zip(abilities, scores, strict=True)]
    return [*lines, cell(row, MEAN, figures["mean"], [], sum(scores) / len(scores))]


def own_figures(runs: list[StoredRun]) -> dict[str, list[float | None]]:
    """What stands in for the abilities, after the last round, run by run."""
    return {"OP": last(runs, "OP"), "BWT": last(runs, "BWT"), "loss": [run.general_loss for run in runs]}


def named(row: str, runs: list[StoredRun]) -> str:
    """The row, and that our runs in it are told the task when they answer."""
    return f"{row} (told the task)" if any(run.summary.get("needs_task_id") for run in runs) else row
