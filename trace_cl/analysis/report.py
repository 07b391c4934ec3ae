"""The result for people: the matrix as a table, report.md and its pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trace_cl.analysis.plots import Method, curves, heatmap, image
from trace_cl.metrics import backward_transfer, overall_performance
from trace_cl.records.files import write

CONVENTION = "BWT_t = 1/t · Σ_{i<t} (S[t,i] − S[i,i]), divided by t as in the HFT paper"


def square(rows: Sequence[Sequence[float]]) -> list[list[float | None]]:
    """A run's rows as a t × t matrix, None above the diagonal."""
    return [[*row, *[None] * (len(rows) - len(row))] for row in rows]


def figures(rows: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """OP and BWT of every finished round."""
    matrix = square(rows)
    rounds = range(1, len(rows) + 1)
    return [overall_performance(matrix, t) for t in rounds], [backward_transfer(matrix, t) for t in rounds]


def matrix(rows: Sequence[Sequence[float]], tasks: Sequence[str]) -> pd.DataFrame:
    """A run's rows as `read_matrix` gives them: indexed by round, a column a task, NaN above the diagonal."""
    filled = [[*row, *[np.nan] * (len(tasks) - len(row))] for row in rows]
    return pd.DataFrame(filled, index=range(1, len(rows) + 1), columns=list(tasks))


def table(rows: Sequence[Sequence[float]], tasks: Sequence[str]) -> pd.DataFrame:
    """The paper's layout: a row a task and a column a round, then OP and BWT."""
    frame = matrix(rows, tasks).T.rename_axis(index="task \\ round").rename(columns=str)
    frame.loc["OP"], frame.loc["BWT"] = figures(rows)
    return frame


def render(rows: Sequence[Sequence[float]], tasks: Sequence[str]) -> str:
    """The table for a terminal, one decimal."""
    return table(rows, tasks).to_string(float_format="{:.1f}".format, na_rep="")


def learned_and_forgotten(
    rows: Sequence[Sequence[float]], tasks: Sequence[str], zero_shot: Mapping[str, float]
) -> pd.DataFrame:
    """A row a finished task: its score before training, after its own round, and now."""
    frame = pd.DataFrame(index=pd.Index(tasks[: len(rows)], name="task"))
    frame["untouched model"] = [zero_shot.get(task, np.nan) for task in frame.index]
    frame["learned"] = [row[-1] for row in rows]
    frame["at the end"] = list(rows[-1])
    frame["forgotten"] = frame["learned"] - frame["at the end"]
    return frame


def rounds_in_figures(rounds: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row a round: what was trained, on how much, how long; and the figures the strategy tells of its rounds."""
    told = [key for key, value in rounds[-1]["strategy"].items() if isinstance(value, int | float)]
    lines = []
    for record in rounds:
        lines.append(
            {
                "round": f"{record['round']}",
                "task": record["task"],
                "trainable %": f"{100 * record['trainable_share']:.1f}",
                "steps": f"{record['optimizer_steps']}",
                "tokens": f"{record['tokens']:,}",
                "final loss": "–" if record["final_loss"] is None else f"{record['final_loss']:.3f}",
                "training s": f"{record['seconds']:.0f}",
                "scoring s": f"{record['evaluation_seconds']:.0f}",
                **{key.replace("_", " "): f"{record['strategy'][key]:.3g}" for key in told},
            }
        )
    return pd.DataFrame(lines).set_index("round")


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table: figures with one decimal, texts as they are, nothing where there is no figure."""
    lines = [[str(frame.index.name), *map(str, frame.columns)], ["---", *["---:"] * len(frame.columns)]]
    for name, row in zip(frame.index, frame.to_numpy(), strict=True):
        lines.append([str(name), *(v if isinstance(v, str) else "" if pd.isna(v) else f"{v:.1f}" for v in row)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_report(
    folder: Path,
    rows: Sequence[Sequence[float]],
    tasks: Sequence[str],
    rounds: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
) -> None:
    """report.md and its pictures, heatmap.png and curves.png, of the finished rounds."""
    name = f"{summary['method']} on {summary['benchmark']}, {summary['model']}, seed {summary['seed']}"
    op, bwt = figures(rows)
    state = "Complete" if summary["complete"] else "Unfinished"
    title = f"{name}\nOP {op[-1]:.1f}, BWT {bwt[-1]:+.1f} after {len(rows)} of {len(tasks)} rounds"
    scores = matrix(rows, tasks)
    write(folder / "heatmap.png", image(heatmap(scores, title)))
    write(folder / "curves.png", image(curves([Method(summary["method"], [scores])])))
    write(
        folder / "report.md",
        f"""# {name}

{state}: {len(rows)} of {len(tasks)} rounds. **OP {op[-1]:.1f}, BWT {bwt[-1]:+.1f}**

## Scores after each round

{markdown(table(rows, tasks))}

Scores run from 0 to 100 (variant: {summary["variant"]}). OP_t = 1/t · Σ_{{i≤t}} S[t,i]; {CONVENTION}.

![The matrix of scores](heatmap.png)

![Each task's score over the rounds](curves.png)

## Learned and forgotten

{markdown(learned_and_forgotten(rows, tasks, summary["zero_shot"]))}

## Rounds

{markdown(rounds_in_figures(rounds))}

Trainable: share of the transformer layers' matrix parameters. Every answer with its score: `predictions/`; every
optimizer step: `train.jsonl`; what was frozen: `rounds/`.
""",
    )
