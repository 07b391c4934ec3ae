"""All runs on one page: `python -m trace_cl.page` writes runs/report.html, a single file that needs nothing besides.

A cell of a matrix opens the answers whose mean it is. They lie in the page as JSON, a block a run, each different text
once; the script parses a block when one of its cells is first opened. So written, the 46,200 answers of 21 runs of the
embedded benchmark take 1.2 MB: no reason for side files. `--examples` bounds what test sets of thousands would take.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

import jinja2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from trace_cl.analysis.report import CONVENTION, figures
from trace_cl.analysis.summary import ORDER, spread
from trace_cl.errors import UserError
from trace_cl.records.files import PUBLISHED, read_matrix, write

COLOURS = matplotlib.colormaps["cividis"]
BLACK_READS_BETTER = 47
"""From this score up black has more contrast on cividis than white."""


@dataclass(frozen=True)
class Run:
    """A run as it lies on disk; `seed` is empty for a published one."""

    folder: Path
    benchmark: str
    model: str
    method: str
    seed: str
    matrix: pd.DataFrame
    summary: dict[str, Any]

    @classmethod
    def read(cls, folder: Path, benchmark: str, model: str, method: str, seed: str) -> Self:
        """The run in a folder that holds a matrix.csv and a summary.json. Raises UserError where one is damaged."""
        try:
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            return cls(folder, benchmark, model, method, seed, read_matrix(folder / "matrix.csv"), summary)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder} is damaged ({error}): move it away") from error

    @property
    def place(self) -> tuple[object, ...]:
        """Where the run stands on the page: by benchmark and model, ours before the published, then by method."""
        strategy = self.method.partition("+")[0]
        known = ORDER.index(strategy) if strategy in ORDER else len(ORDER)
        return self.benchmark, natural(self.model), not self.seed, known, natural(self.method), natural(self.seed)

    @property
    def name(self) -> str:
        """What tells the run from every other, and its anchor in the page."""
        last = f"seed{self.seed}" if self.seed else "published"
        return f"{self.benchmark}/{self.model}/{self.method}/{last}"

    @property
    def source(self) -> str:
        """Where a published run is printed; empty for a run of ours."""
        return str(self.summary.get("source", ""))

    @property
    def tasks(self) -> list[str]:
        """The tasks in the order they are learned."""
        return [str(task) for task in self.matrix.columns]

    @property
    def rows(self) -> list[list[float]]:
        """S, row t with t scores."""
        return [[float(score) for score in row[: t + 1]] for t, row in enumerate(self.matrix.to_numpy())]

    @property
    def complete(self) -> bool:
        """Whether every round is finished."""
        return len(self.matrix) == len(self.tasks)

    @property
    def figures(self) -> tuple[list[float], list[float]]:
        """OP and BWT of every finished round."""
        return figures(self.rows)

    @property
    def learned(self) -> float:
        """The mean of the diagonal."""
        return float(np.mean([row[-1] for row in self.rows]))

    @property
    def zero_shot(self) -> dict[str, float]:
        """The untouched model's scores; empty where it was not asked."""
        scores: dict[str, float] = self.summary.get("zero_shot", {})
        return scores

    def scores(self, task: str) -> dict[int, float]:
        """A task's score by round; round 0 is the untouched model."""
        untouched = {0: self.zero_shot[task]} if task in self.zero_shot else {}
        return untouched | {
            t: row[self.tasks.index(task)] for t, row in enumerate(self.rows, 1) if task in self.tasks[:t]
        }

    def answers(self, round: int, task: str) -> Path:
        """The file of the answers behind a cell; not there for a published run."""
        return self.folder / "predictions" / f"round{round}" / f"{task}.jsonl"


def natural(name: str) -> list[str | int]:
    """A key that sorts 7b before 13b."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def find_runs(runs: Path) -> list[Run]:
    """The runs under `<runs>/<benchmark>/<model>/<method>/seed<k>`, finished or not, and the published ones.

    Raises UserError for a folder that is not there, and for a run that cannot be read.
    """
    if not runs.is_dir():
        raise UserError(f"there is no folder {runs}: give --runs the one that holds the runs")
    found = []
    for path in runs.glob("*/*/*/seed*/matrix.csv"):
        benchmark, model, method, seed = path.parts[-5:-1]
        found.append(Run.read(path.parent, benchmark, model, method, seed.removeprefix("seed")))
    for path in PUBLISHED.glob("*/*/matrix.csv"):
        model, method = path.parts[-3:-1]
        found.append(Run.read(path.parent, "trace", model, method, seed=""))
    return sorted(found, key=lambda run: run.place)


def summary(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """A line a method of one model on one benchmark: OP, BWT and what was learned, over its finished runs."""
    for method, source in dict.fromkeys((run.method, run.source) for run in runs):
        members = [run for run in runs if (run.method, run.source) == (method, source)]
        finished = [run for run in members if run.complete]
        columns = {
            "OP": [run.figures[0][-1] for run in finished],
            "BWT": [run.figures[1][-1] for run in finished],
            "learned": [run.learned for run in finished],
        }
        yield {
            "method": method,
            "source": source,
            "runs": members,
            "figures": {name: spread(values) if values else "–" for name, values in columns.items()},
        }


def answers(run: Run, limit: int) -> dict[str, Any]:
    """The answers behind every cell of a run's matrix, at most `limit` of each, as the page's script reads them.

    `texts` holds every different text once, elsewhere its place in that list stands for it. `total` is the number of
    examples there are.
    """
    texts: dict[str, int] = {}
    tasks = []
    for name in run.tasks:
        rounds: dict[int, Any] = {}
        task = {"name": name, "total": 0, "index": [], "reference": [], "rounds": rounds}
        for round in run.scores(name):
            path = run.answers(round, name)
            if not path.exists():
                continue
            with path.open(encoding="utf-8") as file:
                lines = [json.loads(line) for line in islice(file, limit)]
                task["total"] = len(lines) + sum(1 for _ in file)
            task["index"] = [line["index"] for line in lines]
            task["reference"] = [texts.setdefault(line["reference"], len(texts)) for line in lines]
            rounds[round] = {
                "text": [texts.setdefault(line["prediction"], len(texts)) for line in lines],
                "score": [float(f"{line['score']:.1f}") for line in lines],
            }
        tasks.append(task)
    return {"texts": list(texts), "tasks": tasks}


def colour(score: float) -> str:
    """A score's cell as CSS: the colours of heatmap.png, and black or white on them, whichever reads better."""
    ink = "#000" if score >= BLACK_READS_BETTER else "#fff"
    return f"background:{to_hex(COLOURS(score / 100))};color:{ink}"


def render(runs: Sequence[Run], limit: int) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trace_cl.analysis"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Chinese stays Chinese: half the bytes of its escapes. The signs of HTML are escaped in any case.
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    environment.filters["colour"] = colour
    setups = dict.fromkeys((run.benchmark, run.model) for run in runs)
    groups = {setup: [run for run in runs if (run.benchmark, run.model) == setup] for setup in setups}
    return environment.get_template("page.html").render(
        groups=groups,
        summary=summary,
        answers=lambda run: answers(run, limit),
        convention=CONVENTION,
        legend=[colour(score) for score in range(0, 101, 10)],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m trace_cl.page", description="All runs on one page.")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, help="where the page goes (default: report.html among the runs)")
    parser.add_argument("--examples", type=int, default=100, help="answers shown of a cell, at most (default: 100)")
    options = parser.parse_args(arguments)
    out = options.out or options.runs / "report.html"
    try:
        write(out, render(find_runs(options.runs), options.examples))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0
