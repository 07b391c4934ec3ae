"""All runs on one page: `python -m trace_cl.page` writes runs/report.html, a single file that needs nothing besides.

A cell of a matrix opens the answers whose mean it is. They lie in the page as JSON, a block a run, each different text
once; the script parses a block when one of its cells is first opened. So written, the 46,200 answers of 21 runs of the
embedded benchmark take 1.2 MB: no reason for side files. The prompts lie there once for all runs; of a long one its end
is shown, and the whole when asked for. `--examples` bounds what test sets of thousands would take.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from trace_cl import metrics
from trace_cl.analysis.abilities import DELTA, MEAN, of_run, table
from trace_cl.analysis.forgetting import cells, learned_and_forgotten, when_learned
from trace_cl.analysis.further import BASELINES, frame
from trace_cl.analysis.losses import LOSSES, loss_table
from trace_cl.analysis.save import save
from trace_cl.analysis.stored import StoredRun, by_method, find, find_published, folder_of_runs, last
from trace_cl.analysis.text import RECOMPUTED, headline, identity, over_seeds, texts
from trace_cl.errors import UserError

BLACK_READS_BETTER = 47
"""From this score up black has more contrast on cividis than white."""


def find_runs(runs: Path) -> list[StoredRun]:
    """The runs under `<runs>/<benchmark>/<model>/<method>/seed<k>`, finished or not, and the published ones.

    Raises UserError for a folder that is not there, and for a run that cannot be read.
    """
    return sorted([*find(folder_of_runs(runs)), *find_published()], key=lambda run: run.order)


def summary(runs: Sequence[StoredRun]) -> Iterator[dict[str, Any]]:
    """A line a method of one model on one benchmark: the figures over its finished runs."""
    for members in by_method(runs):
        finished = [run for run in members if run.complete]
        yield {
            "method": members[0].method,
            "published": members[0].published,
            "told": members[0].needs_task_id,
            "runs": members,
            "figures": [
                members[0].text(figure.name, len(members[0].rows))
                if members[0].published
                else over_seeds(last(finished, figure.name))
                for figure in metrics.FIGURES
            ],
        }


def ability_rows(run: StoredRun) -> dict[str, dict[int, str]]:
    """The lines on general abilities by name, of texts by round; none where nothing was scored."""
    by_round = of_run(run)
    shown = table(by_round).T
    names = (MEAN, DELTA) if by_round else ()
    return {f"abilities, {name}": dict(zip(by_round, map(str, shown[name]), strict=True)) for name in names}


class Texts(dict[str, int]):
    """Texts in the order in which they first came, each once; its number stands for it elsewhere."""

    def number(self, text: str) -> int:
        """The text's number."""
        return self.setdefault(text, len(self))


def answers(run: StoredRun, limit: int, prompts: Texts) -> dict[str, Any]:
    """The answers behind every cell of a run's matrix, at most `limit` of each, as the page's script reads them.

    `texts` holds every different text once. Prompts, which all runs of a benchmark share, join `prompts`; a task of
    which a run did not keep them has none. `total` is the number of examples there are.
    """
    texts = Texts()
    tasks = []
    for name in run.tasks:
        rounds: dict[int, Any] = {}
        task: dict[str, Any] = {"name": name, "total": 0, "index": [], "reference": [], "rounds": rounds}
        for round in run.scores(name):
            if not (everything := run.predictions(round, name)):
                continue
            lines = everything[:limit]
            task["total"] = len(everything)
            task["index"] = [line["index"] for line in lines]
            task["reference"] = [texts.number(line["reference"]) for line in lines]
            rounds[round] = {
                "text": [texts.number(line["prediction"]) for line in lines],
                "score": [float(f"{line['score']:.1f}") for line in lines],
            }
        asked = run.prompts(name)
        if asked and rounds:
            task["prompt"] = [prompts.number(asked[index]) if index in asked else None for index in task["index"]]
        tasks.append(task)
    return {"texts": list(texts), "tasks": tasks}


def why(run: StoredRun) -> dict[str, list[list[str]]]:
    """What is known of a run's forgetting besides its scores, tables by caption; none of a run that kept neither
    answers nor losses. Raises UserError for answers that are none."""
    finished = run.tasks[: len(run.rows)]
    found = cells(when_learned(finished, run.predictions), [len(finished)], run.predictions, run.untrained)
    losses = loss_table(run.reference_losses, run.rows, run.tasks, run.untrained)
    forgotten = learned_and_forgotten(run.rows, run.tasks, run.zero_shot, run.untrained, found)
    tables = {"Learned and forgotten": forgotten if found else None, f"Loss of the references. {LOSSES}": losses}
    return {caption: texts(frame) for caption, frame in tables.items() if frame is not None and not frame.empty}


def definitions(run: StoredRun) -> dict[str, list[list[str]]]:
    """The run's figures by all definitions, by their caption. Raises UserError for a damaged run that they need."""
    shown = frame(run)
    return {} if shown.empty else {BASELINES: texts(shown)}


@cache
def palette() -> Sequence[str]:
    """The 256 colours of heatmap.png, #rrggbb. Matplotlib is imported only where they are needed."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in colormaps["cividis"](range(256))]


def colour(score: float) -> str:
    """A score's cell as CSS: the colours of heatmap.png, and black or white on them, whichever reads better."""
    ink = "#000" if score >= BLACK_READS_BETTER else "#fff"
    return f"background:{palette()[min(int(score / 100 * 256), 255)]};color:{ink}"


def render(runs: Sequence[StoredRun], limit: int) -> str:
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
    prompts = Texts()
    said = {run.name: answers(run, limit, prompts) for run in runs if not run.published}
    return environment.get_template("page.html").render(
        groups=groups,
        summary=summary,
        abilities=ability_rows,
        folded={"What was forgotten": why, "Figures by definition": definitions},
        answers=said,
        prompts=list(prompts),
        figures=metrics.FIGURES,
        recomputed=RECOMPUTED,
        headline=headline,
        identity=identity,
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
        save(out, render(find_runs(options.runs), options.examples))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0
