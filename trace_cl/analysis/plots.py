"""Pictures for print: `python -m trace_cl.plots heatmap|curves|op_bwt [RUN …]`.

They have the widths of a paper's one or two columns, and say in grey what they say in colour: methods are told apart by
marker and dash, and the heatmap's scale is one of lightness.
"""

import argparse
import io
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from trace_cl.errors import UserError
from trace_cl.metrics import backward_transfer, overall_performance
from trace_cl.records.files import read_matrix, write

WIDTHS = {"single": 3.3, "double": 6.9}
"""Inches: the width of one column of a paper, and of two."""

KNOWN = ("seqft", "seqft+hft", "gem", "gem+hft", "replay", "replay+hft", "lora_seqft")
"""Methods in the order of the paper, and of the legends; others follow by name."""

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
    """The runs of one method, seed by seed: matrices as `read_matrix` gives them, all of the same tasks."""

    name: str
    matrices: Sequence[pd.DataFrame]
    published: bool = False

    @property
    def tasks(self) -> list[str]:
        """The tasks' names in order."""
        return list(self.matrices[0].columns)


@matplotlib.rc_context(STYLE)
def heatmap(matrix: pd.DataFrame, title: str = "", width: float = WIDTHS["double"]) -> Figure:
    """The matrix: a row a round, a column a task; light is a high score; the figures stand in the cells."""
    tasks = list(matrix.columns)
    values = np.full((len(tasks), len(tasks)), np.nan)
    values[: len(matrix)] = matrix.to_numpy()
    figure = Figure(figsize=(width, 0.3 * width + 0.055 * width * len(tasks)), layout="constrained")
    axes = figure.subplots()
    size = min(7, 13 * width / len(tasks))  # so that 100 in bold has room in its cell
    shades = axes.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for (t, i), value in np.ndenumerate(values):
        if not np.isnan(value):
            weight = "bold" if t == i else "normal"
            color = "w" if value < 55 else "k"
            axes.text(i, t, f"{value:.0f}", ha="center", va="center", weight=weight, color=color, fontsize=size)
    axes.set_xticks(range(len(tasks)), tasks, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(tasks)), [f"{t}: {task}" for t, task in enumerate(tasks, start=1)])
    axes.set(xlabel="task scored", ylabel="after round", title=title)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(shades, label="score", shrink=0.8, aspect=25).outline.set_visible(False)
    return figure


@matplotlib.rc_context(STYLE)
def curves(methods: Sequence[Method], width: float = WIDTHS["double"]) -> Figure:
    """Each task's score over the rounds since it was learned: a panel a task, a line a method.

    Several seeds are their mean, and their standard deviation (of the sample) as a bar.
    """
    tasks = methods[0].tasks
    columns = min(len(tasks), 4 if width > WIDTHS["single"] else 2)
    rows = math.ceil(len(tasks) / columns)
    figure = Figure(figsize=(width, 0.4 + 1.25 * rows + legend_height(methods, columns)), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    aside = np.linspace(-0.2, 0.2, len(methods)) if len(methods) > 1 else [0]  # or the bars would hide one another
    for axes, (number, task) in zip(panels, enumerate(tasks, start=1), strict=False):
        for method, style, shift in zip(methods, styles(methods), aside, strict=True):
            scores = pd.concat([matrix[task] for matrix in method.matrices], axis=1).dropna()
            spread = scores.std(axis=1) if len(method.matrices) > 1 else None
            axes.errorbar(scores.index + shift, scores.mean(axis=1), spread, elinewidth=0.5, **style)
        axes.set_title(f"{number}: {task}")
        axes.set(
            xlim=(0.5, len(tasks) + 0.5), ylim=(-4, 104), xticks=range(1, len(tasks) + 1), yticks=range(0, 101, 25)
        )
    for axes in panels[len(tasks) :]:
        axes.set_axis_off()
    bars = any(len(method.matrices) > 1 for method in methods)
    figure.supxlabel("round (bars: standard deviation over seeds)" if bars else "round", fontsize=7)
    figure.supylabel("score", fontsize=7)
    if len(methods) > 1:
        add_legend(figure, methods, columns)
    return figure


@matplotlib.rc_context(STYLE)
def op_bwt(methods: Sequence[Method], width: float = WIDTHS["single"]) -> Figure:
    """What a method knows at the end (OP) against what it has lost (BWT): a point a seed, published ones hollow."""
    columns = 4 if width > WIDTHS["single"] else 2
    figure = Figure(figsize=(width, 2.5 + legend_height(methods, columns)), layout="constrained")
    axes = figure.subplots()
    points = {"linestyle": "none", "markersize": 5}
    for method, style in zip(methods, styles(methods), strict=True):
        bwt = [backward_transfer(matrix) for matrix in method.matrices]
        op = [overall_performance(matrix) for matrix in method.matrices]
        # Where points overlap, hollow ones show what lies below, and a rim parts filled ones.
        overlap = {"markerfacecolor": "none"} if method.published else {"markeredgecolor": "w", "markeredgewidth": 0.3}
        axes.plot(bwt, op, **{**style, **points, **overlap})
    axes.set(xlabel="BWT", ylabel="OP")
    axes.grid(linewidth=0.3, color="0.85")
    axes.margins(0.08)
    add_legend(figure, methods, columns, **points)
    return figure


def add_legend(figure: Figure, methods: Sequence[Method], columns: int, **changes: Any) -> None:
    """Each method once, above the picture, where no data lie; and what hollow means, where something is.

    `changes` are to the methods' styles.
    """
    entries: dict[str, Line2D] = {}
    for method, style in zip(methods, styles(methods), strict=True):
        entries.setdefault(method.name, Line2D([], [], **{**style, **changes}))
    if any(method.published for method in methods):
        entries["hollow: published"] = Line2D([], [], color="0.5", marker="o", markerfacecolor="w", linestyle="none")
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=columns)


def legend_height(methods: Sequence[Method], columns: int) -> float:
    """Inches that `add_legend` takes, about."""
    return 0.13 * math.ceil((len({method.name for method in methods}) + 1) / columns)


def styles(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """How each method is drawn: a marker of its own, its family's colour, dashed with HFT, hollow if published.

    A family is a method with HFT and without.
    """
    names = ordered([*KNOWN, *(method.name for method in methods)])
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


def ordered(names: Iterable[str]) -> list[str]:
    """Method names, each once: the known ones first, the others by name."""
    return sorted(set(names), key=lambda name: (KNOWN.index(name) if name in KNOWN else len(KNOWN), name))


@matplotlib.rc_context(STYLE)
def image(figure: Figure, format: str = "png") -> bytes:
    """The picture as a file's content (png or pdf), the same bytes whenever it is drawn."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=format, metadata={"CreationDate": None} if format == "pdf" else None)
    return buffer.getvalue()


def published_folder() -> Path:
    """Where the paper's matrices lie."""
    from trace_cl.records.files import PUBLISHED

    return PUBLISHED


def place(folder: Path) -> tuple[Path, bool]:
    """The folder of a run's method (in its model's folder), and whether the run is a published one."""
    folder = folder.resolve()
    published = folder.is_relative_to(published_folder())
    return folder if published else folder.parent, published


def read(folder: Path) -> Method:
    """One run. Raises UserError for a folder that holds none."""
    if not (folder / "matrix.csv").exists():
        raise UserError(f"{folder} is no run with a finished round: it holds no matrix.csv")
    method, published = place(folder)
    return Method(method.name, [read_matrix(folder / "matrix.csv")], published)


def gather(folders: Sequence[Path]) -> list[Method]:
    """The finished runs by method, in the legend's order, the published after ours.

    Raises UserError where they are not of the same tasks and model, or none is finished.
    """
    runs = [read(folder) for folder in folders]
    models: dict[bool, Path] = {}
    found: dict[tuple[bool, str], list[pd.DataFrame]] = {}
    for folder, run in zip(folders, runs, strict=True):
        if run.tasks != runs[0].tasks:
            raise UserError(f"{folder} and {folders[0]} have not the same tasks: draw them apart")
        model = place(folder)[0].parent
        if models.setdefault(run.published, model) != model:
            raise UserError(f"{folder} does not lie in {models[run.published]} like those before it: draw them apart")
        if len(run.matrices[0]) == len(run.tasks):
            found.setdefault((run.published, run.name), []).extend(run.matrices)
        else:
            print(f"not finished, left out: {folder}", file=sys.stderr)
    if not found:
        raise UserError("none of these runs is finished: only heatmaps can be drawn of them")
    names = ordered(name for _, name in found)
    keys = sorted(found, key=lambda key: (key[0], names.index(key[1])))
    return [Method(name, found[published, name], published) for published, name in keys]


def heatmaps(folders: Sequence[Path], width: float) -> Iterator[tuple[str, Figure]]:
    """A picture a run, and the name to save it under."""
    for folder in folders:
        run = read(folder)
        [matrix] = run.matrices
        name = f"{run.name} (published)" if run.published else run.name
        title = f"{name}: OP {overall_performance(matrix):.1f}, BWT {backward_transfer(matrix):+.1f}"
        yield "-".join(["heatmap", *folder.resolve().parts[-3:]]), heatmap(matrix, title, width)


def runs_meant(options: argparse.Namespace) -> list[Path]:
    """The folders of the runs to draw. Raises UserError where there is none."""
    model, paper = options.model, published_folder()
    ours = options.runs / (options.benchmark or ("embedded" if model == "tiny" else "trace")) / model
    folders = options.run or sorted(path.parent for path in ours.glob("*/seed*/matrix.csv"))
    if options.published:
        theirs = paper / (model if (paper / model).is_dir() else "llama2-chat-7b")
        folders = [*folders, *sorted(path.parent for path in theirs.glob("*/matrix.csv"))]
    if not folders:
        raise UserError(f"there is no run under {ours}: start one with python -m trace_cl")
    return folders


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m trace_cl.plots", description="Pictures of runs, for print.")
    parser.add_argument("picture", choices=["heatmap", "curves", "op_bwt"])
    parser.add_argument("run", metavar="RUN", type=Path, nargs="*", help="runs' folders (default: all of the model)")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--benchmark", help="default: embedded for tiny, else trace")
    parser.add_argument("--published", action="store_true", help="the paper's runs too (of the model, or the 7B ones)")
    parser.add_argument("--width", choices=WIDTHS, help="columns of a paper (default: double for curves, else single)")
    parser.add_argument("--format", choices=["png", "pdf", "png,pdf"], default="png")
    parser.add_argument("--out", type=Path, default=Path("plots"), help="the folder to put them in")
    options = parser.parse_args(arguments)
    width = WIDTHS[options.width or ("double" if options.picture == "curves" else "single")]
    try:
        folders = runs_meant(options)
        pictures: Iterable[tuple[str, Figure]]
        if options.picture == "heatmap":
            pictures = heatmaps(folders, width)
        else:
            draw = {"curves": curves, "op_bwt": op_bwt}[options.picture]
            pictures = [(options.picture, draw(gather(folders), width))]
        for name, figure in pictures:
            for format in options.format.split(","):
                path = options.out / f"{name}.{format}"
                write(path, image(figure, format))
                print(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
