"""Pictures for print: `python -m trace_cl.plots heatmap|curves|op_bwt|abilities|orders [RUN …]`.

They have the widths of a paper's one or two columns, and say in grey what they say in colour: methods are told apart by
marker and dash, and the heatmap's scale is one of lightness.
"""

import argparse
import io
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from trace_cl.analysis.abilities import of_run
from trace_cl.analysis.orders import Ordered, by_order, spread
from trace_cl.analysis.save import save
from trace_cl.analysis.stored import (
    STRATEGIES,
    StoredRun,
    by_method,
    default_benchmark,
    find,
    find_published,
    folder_of_runs,
    method_order,
)
from trace_cl.analysis.text import headline
from trace_cl.errors import UserError
from trace_cl.identity import ORDER
from trace_cl.metrics import backward_transfer, overall_ability, overall_performance
from trace_cl.paths import check_name
from trace_cl.records.files import PUBLISHED

Points = NDArray[np.float64]

WIDTHS = {"single": 3.3, "double": 6.9}
"""Inches: the width of one column of a paper, and of two."""

PAPER = tuple(name for name in STRATEGIES for name in (name, f"{name}+hft") if name != "lora_seqft+hft")
"""The paper's methods, whose looks do not depend on what else is drawn."""

MARKERS = "os^v<>DphdP*X8H"
"""Shapes that stay apart when small and hollow; the known methods of a family stand in pairs."""

COLOURS = ("#000000", "#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#888888")
"""Okabe and Ito's, which the colour-blind tell apart; the known methods' from dark to light."""

STYLE: dict[Any, Any] = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "lines.linewidth": 0.9,
    "lines.markersize": 3.5,
    "lines.markeredgewidth": 0.7,
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
    "savefig.dpi": 300,
}


@dataclass(frozen=True)
class Method:
    """The runs of one method, seed by seed: matrices as `read_matrix` gives them, all of the same tasks. `told` says
    that it has to be told which task a text belongs to when it answers; `abilities` are the mean general abilities by
    round, 0 the base model's."""

    name: str
    matrices: Sequence[pd.DataFrame]
    published: bool = False
    told: bool = False
    abilities: Sequence[Mapping[int, float]] = ()

    @property
    def label(self) -> str:
        """What the legend calls it."""
        return f"{self.name} (task identity)" if self.told else self.name

    @property
    def tasks(self) -> list[str]:
        """The tasks' names in order."""
        return list(self.matrices[0].columns)


@matplotlib.rc_context(STYLE)
def heatmap(matrix: pd.DataFrame, title: str = "", width: float = WIDTHS["double"]) -> Picture:
    """The matrix as the paper's tables have it: a row a task, a column a round; light is a high score.

    `matrix` is rounds × tasks, as `read_matrix` gives it; rounds to come are left white.
    """
    tasks = list(matrix.columns)
    values = np.full((len(tasks), len(tasks)), np.nan)
    values[:, : len(matrix)] = matrix.to_numpy().T
    picture = Picture(figsize=(width, 0.2 * width + 0.055 * width * len(tasks)), layout="constrained")
    axes = picture.subplots()
    size = min(7, 13 * width / len(tasks))  # so that 100.0 in bold has room in its cell
    shades = axes.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for (i, t), value in np.ndenumerate(values):
        if not np.isnan(value):
            weight = "bold" if t == i else "normal"
            color = "w" if value < 55 else "k"
            axes.text(t, i, f"{value:.1f}", ha="center", va="center", weight=weight, color=color, fontsize=size)
    axes.set_xticks(range(len(tasks)), [str(t) for t in range(1, len(tasks) + 1)])
    axes.set_yticks(range(len(tasks)), [f"{i}: {task}" for i, task in enumerate(tasks, start=1)])
    axes.set(xlabel="after round", ylabel="task", title=title)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    picture.colorbar(shades, label="score", shrink=0.8, aspect=25).outline.set_visible(False)
    return picture


@matplotlib.rc_context(STYLE)
def curves(methods: Sequence[Method], width: float = WIDTHS["double"]) -> Picture:
    """Each task's score over the rounds since it was learned: a panel a task, a line a method.

    Several seeds are their mean, and their standard deviation (of the sample) as a bar.
    """
    tasks = methods[0].tasks
    columns = min(len(tasks), 4 if width > WIDTHS["single"] else 2)
    rows = math.ceil(len(tasks) / columns)
    picture = Picture(figsize=(width, 0.4 + 1.25 * rows + legend_height(methods, columns)), layout="constrained")
    panels = picture.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (number, task) in zip(panels, enumerate(tasks, start=1), strict=False):
        for method, style in zip(methods, styles(methods), strict=True):
            scores = pd.concat([matrix[task] for matrix in method.matrices], axis=1).dropna()
            deviation = scores.std(axis=1) if len(method.matrices) > 1 else None
            axes.errorbar(scores.index, scores.mean(axis=1), deviation, elinewidth=0.5, **style)
        axes.set_title(f"{number}: {task}")
        axes.set(
            xlim=(0.5, len(tasks) + 0.5), ylim=(-4, 104), xticks=range(1, len(tasks) + 1), yticks=range(0, 101, 25)
        )
    for axes in panels[len(tasks) :]:
        axes.set_axis_off()
    bars = any(len(method.matrices) > 1 for method in methods)
    picture.supxlabel("round (bars: standard deviation over seeds)" if bars else "round", fontsize=7)
    picture.supylabel("score", fontsize=7)
    if len(methods) > 1:
        add_legend(picture, methods, columns)
    return picture


@matplotlib.rc_context(STYLE)
def abilities(methods: Sequence[Method], width: float = WIDTHS["double"]) -> Picture:
    """General abilities over the rounds beside OP and BWT: a panel each, a line a method (the HFT paper's Table 12, and
    TRACE's ΔR, as curves).

    Several seeds are their mean, and their standard deviation (of the sample) as a bar. Round 0 is the base model.
    """
    columns = 4 if width > WIDTHS["single"] else 2
    picture = Picture(figsize=(width, 1.7 + legend_height(methods, columns)), layout="constrained")
    panels = picture.subplots(1, 3)
    for method, style in zip(methods, styles(methods), strict=True):
        rounds = range(1, len(method.tasks) + 1)
        figures = [
            [{t: figure(matrix, t) for t in rounds} for matrix in method.matrices]
            for figure in (overall_performance, backward_transfer)
        ]
        for axes, seeds in zip(panels, (*figures, method.abilities), strict=True):
            values = pd.DataFrame(seeds).T.sort_index()
            deviation = values.std(axis=1) if len(seeds) > 1 else None
            axes.errorbar(values.index, values.mean(axis=1), deviation, elinewidth=0.5, **style)
    for axes, title in zip(panels, ("OP", "BWT", "general abilities, mean"), strict=True):
        axes.set(title=title, xlabel="round", xticks=range(len(methods[0].tasks) + 1))
    add_legend(picture, methods, columns)
    return picture


@matplotlib.rc_context(STYLE)
def op_bwt(methods: Sequence[Method], width: float = WIDTHS["single"]) -> Picture:
    """What a method knows at the end (OP) against what it has lost (BWT): a point a seed, published ones hollow.

    A point far from the others would squeeze these into a corner: it stands at the edge with an arrow towards where it
    lies, and its figures below the picture. Where many points are far apart, the axes reach to all.
    """
    columns = 4 if width > WIDTHS["single"] else 2
    looks = {"linestyle": "none", "markersize": 5}
    drawn = []
    for method, style in zip(methods, styles(methods), strict=True):
        points = np.array([[backward_transfer(matrix), overall_performance(matrix)] for matrix in method.matrices])
        # Where points overlap, hollow ones show what lies below, and a rim parts filled ones.
        overlap = {"markerfacecolor": "none"} if method.published else {"markeredgecolor": "w", "markeredgewidth": 0.3}
        drawn.append((method, points, {**style, **looks, **overlap}))
    lowest, highest = bulk(np.concatenate([points for _, points, _ in drawn]))
    margin = 0.08 * (highest - lowest)
    beyond = [
        f"{method.name}{' (published)' if method.published else ''}: OP {op:.1f}, BWT {bwt:.1f}"
        for method, points, _ in drawn
        for bwt, op in points[outside(points, lowest, highest)]
    ]
    height = 2.5 + legend_height(methods, columns) + 0.1 * len(beyond)
    picture = Picture(figsize=(width, height), layout="constrained")
    axes = picture.subplots()
    axes.set(xlabel="BWT", ylabel="OP")
    axes.set_xlim(lowest[0] - margin[0], highest[0] + margin[0])
    axes.set_ylim(lowest[1] - margin[1], highest[1] + margin[1])
    axes.grid(linewidth=0.3, color="0.85")
    for _, points, style in drawn:
        seen = np.clip(points, lowest - 0.6 * margin, highest + 0.6 * margin)
        axes.plot(*seen.T, **style)
        for point, mark in zip(points, seen, strict=True):
            if (point != mark).any():
                arrow = {"arrowstyle": "<|-", "color": style["color"], "shrinkA": 0, "shrinkB": 2, "mutation_scale": 6}
                way = 9 * np.sign(point - mark)
                axes.annotate("", mark, xytext=tuple(way), textcoords="offset points", arrowprops=arrow)
    add_legend(picture, methods, columns, **looks)
    if beyond:
        picture.supxlabel("\n".join(["Beyond the axes (arrow):", *beyond]), fontsize=6)
    return picture


@matplotlib.rc_context(STYLE)
def over_orders(methods: Sequence[Ordered], width: float) -> Picture:
    """OP and BWT in each order: a panel a figure, a place a method, a point an order with its seeds' standard deviation
    as a bar; the line and the band are the mean over orders and their standard deviation."""
    drawn = Picture(figsize=(width, 2.6), layout="constrained")
    for axes, figure in zip(drawn.subplots(1, 2), ("OP", "BWT"), strict=True):
        for place, method in enumerate(methods):
            if values := method.values(figure):
                _draw_orders(axes, place, values)
        axes.set(title=figure, xticks=range(len(methods)), xlim=(-0.6, len(methods) - 0.4))
        axes.set_xticklabels([method.method for method in methods], rotation=20, ha="right")
        axes.grid(axis="y", linewidth=0.3, color="0.85")
    drawn.supxlabel("a circle: an order, by its name (white: random); bars: seeds; band: orders", fontsize=6.5)
    return drawn


def _draw_orders(axes: Axes, place: int, values: dict[str, list[float]]) -> None:
    """One figure of one method, by order a value a seed."""
    middle, orders, _ = spread(values)
    ends, reach = [place - 0.35, place + 0.35], orders or 0.0
    axes.fill_between(ends, middle - reach, middle + reach, color="0.88", linewidth=0)
    axes.plot(ends, [middle, middle], color="0.4", linewidth=0.8)
    for (order, seeds), x in zip(values.items(), np.linspace(place - 0.25, place + 0.25, len(values)), strict=True):
        axes.errorbar(x, mean(seeds), stdev(seeds) if len(seeds) > 1 else None, color="k", elinewidth=0.5)
        circle = {"boxstyle": "circle,pad=0.2", "facecolor": "w" if "random" in order else "#cfe3f2", "linewidth": 0.4}
        name = order.removeprefix("random")
        axes.annotate(name, (x, mean(seeds)), ha="center", va="center", fontsize=5.5, bbox=circle)


def outside(points: Points, lowest: Points, highest: Points) -> NDArray[np.bool_]:
    """Which of the points n × 2 lie outside the box with these corners: n."""
    return np.asarray(((points < lowest) | (points > highest)).any(axis=1))


def bulk(points: Points) -> Points:
    """The box (2 × 2: lowest and highest corner) round the points n × 2, without the far ones where these are few.

    Far is what lies beyond Tukey's outer fences (1977, *Exploratory Data Analysis*) on either axis: further from the
    quartiles than three times their distance, which counts as two points of score at least. Few is one in six.
    """
    lower, upper = np.quantile(points, [0.25, 0.75], axis=0)
    reach = 3 * np.maximum(upper - lower, 2)
    far = outside(points, lower - reach, upper + reach)
    near = points[~far] if 6 * far.sum() <= len(points) else points
    return np.stack([near.min(axis=0) - 0.5, near.max(axis=0) + 0.5])


def add_legend(picture: Picture, methods: Sequence[Method], columns: int, **changes: Any) -> None:
    """Each method once, above the picture, where no data lie; and what hollow means, where something is.

    `changes` are to the methods' styles.
    """
    entries: dict[str, Line2D] = {}
    for method, style in zip(methods, styles(methods), strict=True):
        entries.setdefault(method.label, Line2D([], [], **{**style, **changes}))
    if any(method.published for method in methods):
        entries["hollow: published"] = Line2D([], [], color="0.5", marker="o", markerfacecolor="w", linestyle="none")
    picture.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=columns)


def legend_height(methods: Sequence[Method], columns: int) -> float:
    """Inches that `add_legend` takes, about."""
    return 0.13 * math.ceil((len({method.label for method in methods}) + 1) / columns)


def styles(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """How each method is drawn: a marker of its own, its family's colour, dashed with HFT, hollow if published.

    A family is a method with HFT and without.
    """
    others = {method.name for method in methods} - set(PAPER)
    names = [*PAPER, *sorted(others, key=method_order)]
    families = list(dict.fromkeys(name.replace("+hft", "") for name in names))
    return [
        {
            "color": COLOURS[families.index(method.name.replace("+hft", "")) % len(COLOURS)],
            "marker": MARKERS[names.index(method.name) % len(MARKERS)],
            "linestyle": (0, (3, 1.5)) if "+hft" in method.name else "-",
            "markerfacecolor": "w" if method.published else None,
        }
        for method in methods
    ]


@matplotlib.rc_context(STYLE)
def image(picture: Picture, format: str = "png") -> bytes:
    """The picture as a file's content (png or pdf), the same bytes whenever it is drawn."""
    buffer = io.BytesIO()
    picture.savefig(buffer, format=format, metadata={"CreationDate": None} if format == "pdf" else None)
    return buffer.getvalue()


def gather(runs: Sequence[StoredRun]) -> list[Method]:
    """The finished runs by method, in the legend's order, the published after ours.

    Published runs of other tasks than ours are left out, and so are unfinished ones; both are said. Raises UserError
    where the others are not of the same tasks and model, or none is finished.
    """
    ours, theirs = ([run for run in runs if run.published == published] for published in (False, True))
    if foreign := [run for run in theirs if ours and run.tasks != ours[0].tasks]:
        print(f"published, but of other tasks, left out: {', '.join(run.method for run in foreign)}", file=sys.stderr)
        theirs = [run for run in theirs if run not in foreign]
    for group in (ours, theirs):
        for run in group:
            if run.tasks != group[0].tasks:
                raise UserError(f"{run.folder} and {group[0].folder} have not the same tasks: draw them apart")
            if (run.benchmark, run.model) != (group[0].benchmark, group[0].model):
                raise UserError(
                    f"{run.folder} is of {run.model} on {run.benchmark}, {group[0].folder} of {group[0].model} on "
                    f"{group[0].benchmark}: draw them apart"
                )
            if not run.complete:
                print(f"not finished, left out: {run.folder}", file=sys.stderr)
    if not any(run.complete for run in (*ours, *theirs)):
        raise UserError("none of these runs is finished: only heatmaps can be drawn of them")
    return [
        Method(
            seeds[0].method,
            [run.matrix for run in seeds],
            seeds[0].published,
            bool(seeds[0].needs_task_id),
            [{t: overall_ability(scores) for t, scores in of_run(run).items()} for run in seeds],
        )
        for group in (ours, theirs)
        for seeds in by_method(run for run in group if run.complete)
    ]


def with_bwt(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """The runs that have a BWT; the others are said. Raises UserError where none has."""
    for run in (without := [run for run in runs if run.figures["BWT"][-1] is None]):
        print(f"BWT is undefined, as a round trained nothing, left out: {run.folder}", file=sys.stderr)
    if len(without) == len(runs):
        raise UserError("none of these runs has a BWT: draw curves or heatmaps")
    return [run for run in runs if run not in without]


def with_abilities(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """The runs of which abilities were scored after more than one round; the others are said. Raises UserError where
    there is none."""
    scored = [run for run in runs if len(of_run(run)) > 1]
    for run in runs:
        if run not in scored:
            print(f"no general abilities of several rounds, left out: {run.folder}", file=sys.stderr)
    if not scored:
        raise UserError("of none of these runs general abilities are known: python -m trace_cl.abilities measures them")
    return scored


def in_one_order(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """The runs in the order of the tasks that most have, in doubt the benchmark's own; the others are said."""
    found = Counter(tuple(run.tasks) for run in runs if not run.published)
    own = next((run.own.get(ORDER) for run in runs if run.written), None)
    common = max(found, key=lambda tasks: (found[tasks], list(tasks) == own), default=())
    others = [run for run in runs if not run.published and tuple(run.tasks) != common]
    for run in others:
        print(f"in another order of the tasks, left out: {run.folder}", file=sys.stderr)
    return [run for run in runs if run not in others]


def with_orders(runs: Sequence[StoredRun]) -> list[Ordered]:
    """The methods that have finished runs in several orders. Raises UserError where none has."""
    methods = by_order(run for run in runs if not run.published)
    if not methods:
        raise UserError("none of these methods has finished runs in several orders: -m benchmark.order=1,2 makes them")
    return methods


def heatmaps(runs: Sequence[StoredRun], width: float) -> Iterator[tuple[str, Picture]]:
    """A picture a run, and the name to save it under."""
    for run in runs:
        name = f"{run.method} (published)" if run.published else f"{run.method}, seed {run.seed}"
        saved = "-".join(["heatmap", *run.folder.resolve().parts[-3:]])
        yield saved, heatmap(run.matrix, f"{name}\n{headline(run.figures, run.printed)}", width)


def runs_meant(options: argparse.Namespace) -> list[StoredRun]:
    """The runs to draw. Raises UserError where there is none."""
    model, benchmark = options.model, options.benchmark
    if benchmark is None:
        benchmark = default_benchmark(model)
    check_name("--model", model)
    check_name("--benchmark", benchmark)
    if not options.run and not options.published:
        folder_of_runs(options.runs)
    runs = [StoredRun.at(folder) for folder in options.run] or find(options.runs, benchmark, model)
    if options.published:
        runs += find_published(model if (PUBLISHED / model).is_dir() else "llama2-chat-7b")
    if not runs:
        raise UserError(f"there is no run under {options.runs / benchmark / model}: start one with python -m trace_cl")
    return runs


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m trace_cl.plots", description="Pictures of runs, for print.")
    parser.add_argument("picture", choices=["heatmap", "curves", "op_bwt", "abilities", "orders"])
    parser.add_argument("run", metavar="RUN", type=Path, nargs="*", help="runs' folders (default: all of the model)")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--benchmark", help="default: embedded for tiny, else trace")
    parser.add_argument("--published", action="store_true", help="the paper's runs too (of the model, or the 7B ones)")
    parser.add_argument("--width", choices=WIDTHS, help="columns of a paper (default: double for lines over rounds)")
    parser.add_argument("--format", choices=["png", "pdf", "png,pdf"], default="png")
    parser.add_argument("--out", type=Path, default=Path("plots"), help="the folder to put them in")
    options = parser.parse_args(arguments)
    width = WIDTHS[options.width or ("single" if options.picture in ("heatmap", "op_bwt") else "double")]
    try:
        runs = runs_meant(options)
        pictures: Iterable[tuple[str, Picture]]
        if options.picture == "heatmap":
            pictures = heatmaps(runs, width)
        elif options.picture == "orders":
            pictures = [("orders", over_orders(with_orders(runs), width))]
        else:
            if not options.run:
                runs = in_one_order(runs)
            if options.picture == "op_bwt":
                runs = with_bwt(runs)
            elif options.picture == "abilities":
                runs = with_abilities(with_bwt(runs))
            draw = {"curves": curves, "op_bwt": op_bwt, "abilities": abilities}[options.picture]
            pictures = [(options.picture, draw(gather(runs), width))]
        for name, picture in pictures:
            for format in options.format.split(","):
                path = options.out / f"{name}.{format}"
                save(path, image(picture, format))
                print(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
