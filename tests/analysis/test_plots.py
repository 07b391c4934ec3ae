"""The pictures: that they show what was measured, and can be read in print."""

import io
import json
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure as Picture
from matplotlib.lines import Line2D
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from trace_cl.analysis.plots import PAPER, WIDTHS, Method, bulk, curves, gather, heatmap, image, main, op_bwt, styles
from trace_cl.analysis.stored import StoredRun, find_published
from trace_cl.records.files import PUBLISHED, read_matrix

PUBLISHED_RUNS = find_published("llama2-chat-7b")


def matrix(*rows: list[float]) -> pd.DataFrame:
    """A run's scores on tasks a, b and c."""
    filled = [[*row, *[np.nan] * (3 - len(row))] for row in rows]
    return pd.DataFrame(filled, index=range(1, len(rows) + 1), columns=["a", "b", "c"])


ONE = matrix([80], [60, 90], [40, 70, 50])  # OP 160/3, BWT (−40 − 20)/3
TWO = matrix([90], [60, 70], [20, 70, 90])  # OP 60, BWT −70/3


def points(line: Line2D) -> list[tuple[float, float]]:
    """The line's points."""
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


def drawn_lines(picture: Picture) -> list[list[tuple[float, float]]]:
    """The points of every line, panel by panel."""
    return [points(line) for axes in picture.axes for line in axes.lines]


def test_curves_are_the_means_over_seeds_with_their_deviation() -> None:
    figure = curves([Method("seqft", [ONE, TWO]), Method("gem", [ONE])])
    assert [axes.get_title() for axes in figure.axes] == ["1: a", "2: b", "3: c"]
    assert drawn_lines(figure) == [
        [(1, 85), (2, 60), (3, 30)],
        [(1, 80), (2, 60), (3, 40)],
        [(2, 80), (3, 70)],
        [(2, 90), (3, 70)],
        [(3, 70)],
        [(3, 50)],
    ]
    [bars] = figure.axes[0].collections
    # The sample's standard deviation of two values is their distance over √2.
    lengths = [abs(top[1] - bottom[1]) for bottom, top in bars.get_segments()]  # type: ignore[attr-defined]
    assert lengths == pytest.approx([2 * 10 / 2**0.5, 0, 2 * 20 / 2**0.5])


def test_op_bwt_has_a_point_a_seed_and_hollow_ones_for_the_paper() -> None:
    [axes] = op_bwt([Method("seqft", [ONE, TWO]), Method("seqft", [ONE], published=True)]).axes
    ours, paper = axes.lines
    assert [pytest.approx(point) for point in points(ours)] == [(-20, 160 / 3), (-70 / 3, 60)]
    assert [pytest.approx(point) for point in points(paper)] == [(-20, 160 / 3)]
    assert paper.get_markerfacecolor() == "none"
    assert ours.get_markerfacecolor() == paper.get_markeredgecolor() == "#000000"


def test_a_point_far_from_all_others_stands_at_the_edge_and_its_figures_below() -> None:
    [axes] = (picture := op_bwt(gather(PUBLISHED_RUNS))).axes
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert (right - left, top - bottom) < (20, 15), "LoraSeqFT's BWT of -45.2 and OP of 6.4 do not stretch the axes"
    drawn = {point for line in axes.lines for point in points(line)}
    truth = {(run.figures["BWT"][-1], run.figures["OP"][-1]) for run in PUBLISHED_RUNS}
    assert len(drawn) == len(truth) == len(PUBLISHED_RUNS)
    [(x, y)] = drawn - truth
    assert left < x < left + 0.05 * (right - left)
    assert bottom < y < bottom + 0.05 * (top - bottom)
    [arrow] = [text for text in axes.texts if getattr(text, "arrow_patch", None)]
    assert arrow.get_position()[0] < 0 > arrow.get_position()[1], "down and to the left"
    assert picture.get_supxlabel() == "Beyond the axes (arrow):\nlora_seqft (published): OP 6.4, BWT -45.2"


def test_only_what_is_far_from_most_is_left_beyond_the_axes() -> None:
    close = [[x, 50.0] for x in (-4, -3, -2, -1, 0, 1, 2)]
    assert bulk(np.array([*close, [-60, 50]])).tolist() == [[-4.5, 49.5], [2.5, 50.5]]
    assert bulk(np.array([*close, [-60, 50], [-50, 50]])).tolist() == [[-60.5, 49.5], [2.5, 50.5]], (
        "two of nine are many"
    )
    assert bulk(np.array([[-20.0, 50.0], [0.0, 60.0]])).tolist() == [[-20.5, 49.5], [0.5, 60.5]]


def test_the_heatmap_shows_every_score_of_an_unfinished_run() -> None:
    axes = heatmap(matrix([80], [12.5, 90])).axes[0]
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    assert shown == {(0, 0): "80.0", (1, 0): "12.5", (1, 1): "90.0"}, "x is the round, y the task, as in the tables"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1: a", "2: b", "3: c"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3"]
    [shades] = axes.images
    values: NDArray[np.float64] = np.ma.filled(np.ma.asarray(shades.get_array()), np.nan)
    assert values == pytest.approx(np.array([[80, 12.5, np.nan], [np.nan, 90, np.nan], [np.nan] * 3]), nan_ok=True)


def test_methods_are_told_apart_without_colour() -> None:
    methods = [*gather(PUBLISHED_RUNS), Method("another", [ONE]), Method("another+hft", [ONE])]
    markers = [style["marker"] for style in styles(methods)]
    assert len(set(markers)) == len(methods) == 14
    paper = [method for method in methods if method.name in PAPER]
    assert len(paper) == 7
    luminances = [np.dot([0.299, 0.587, 0.114], to_rgb(style["color"])) for style in styles(paper)]
    families = sorted({round(luminance, 3) for luminance in luminances})
    assert len(families) == 4, "two methods with HFT and without share a colour"
    assert min(lighter - darker for darker, lighter in pairwise(families)) > 0.1


def test_a_method_looks_the_same_in_every_picture() -> None:
    methods = gather(PUBLISHED_RUNS)
    everywhere = dict(zip([method.name for method in methods], styles(methods), strict=True))
    alone = {method.name: styles([method])[0] for method in methods if method.name in PAPER}
    assert alone == {name: everywhere[name] for name in PAPER}


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("picture", ["heatmap", "curves", "op_bwt"])
def test_print(picture: str, width: float) -> None:
    """The column's width, nothing cut off, no letter below 5 points, no legend on the data."""
    methods = gather(PUBLISHED_RUNS)
    if picture == "heatmap":
        figure = heatmap(PUBLISHED_RUNS[1].matrix, "seqft+hft: OP 51.3, BWT -5.6", width)
    else:
        figure = {"curves": curves, "op_bwt": op_bwt}[picture](methods, width)
    with Image.open(io.BytesIO(image(figure))) as file:
        pixels = np.asarray(file.convert("L"))
    assert pixels.shape[1] == round(300 * width)
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all(), "something is cut off"
    assert min(float(text.get_fontsize()) for text in figure.findobj(Text)) >= 5
    figure.draw_without_rendering()
    for legend, axes in product(figure.legends, figure.axes):
        box = axes.get_tightbbox()
        assert box is not None
        assert not legend.get_window_extent().overlaps(box)


def test_the_file_is_the_same_whenever_it_is_drawn() -> None:
    for format, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        first, second = (image(op_bwt([Method("gem", [ONE])]), format) for _ in range(2))
        assert first == second
        assert first.startswith(magic)


def stored(folder: Path, scores: pd.DataFrame = ONE) -> Path:
    folder.mkdir(parents=True)
    scores.rename_axis(index="round").to_csv(folder / "matrix.csv")
    return folder


def test_the_command_draws_all_runs_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "embedded" / "tiny"
    for method, seed, scores in (("gem", 1, ONE), ("gem", 2, TWO), ("seqft", 1, ONE), ("replay", 1, ONE[:2])):
        stored(model / method / f"seed{seed}", scores)
    where = ["--runs", str(tmp_path), "--out", str(tmp_path / "plots")]
    assert main(["curves", *where, "--format", "png,pdf"]) == 0
    printed = capsys.readouterr()
    assert printed.err == f"not finished, left out: {model / 'replay' / 'seed1'}\n"
    assert printed.out.split() == [str(tmp_path / "plots" / f"curves.{format}") for format in ("png", "pdf")]
    assert main(["heatmap", *where]) == 0
    names = {"tiny-gem-seed1", "tiny-gem-seed2", "tiny-seqft-seed1", "tiny-replay-seed1"}
    assert {path.stem for path in (tmp_path / "plots").glob("heatmap-*.png")} == {f"heatmap-{name}" for name in names}


def test_runs_and_published_ones_are_gathered_by_method(tmp_path: Path) -> None:
    paper = [PUBLISHED / "llama2-chat-7b" / method for method in ("gem", "seqft")]
    scores = read_matrix(paper[0] / "matrix.csv")
    seeds = [stored(tmp_path / "tiny" / "gem" / f"seed{seed}", scores) for seed in (1, 2)]
    runs = [StoredRun.at(folder) for folder in (*paper, *seeds)]
    gathered = [(method.name, method.published, len(method.matrices)) for method in gather(runs)]
    assert gathered == [("gem", False, 2), ("seqft", True, 1), ("gem", True, 1)]


@pytest.mark.parametrize("draw", [curves, op_bwt])
def test_the_legend_says_who_is_told_the_task(tmp_path: Path, draw: Callable[..., Picture]) -> None:
    for method, told in (("gem", False), ("prompts", True)):
        folder = stored(tmp_path / "tiny" / method / "seed1")
        (folder / "summary.json").write_text(json.dumps({"needs_task_id": told}))
    runs = [StoredRun.at(tmp_path / "tiny" / method / "seed1") for method in ("gem", "prompts")]
    [legend] = draw(gather(runs)).legends
    assert [text.get_text() for text in legend.get_texts()] == ["gem", "prompts (task identity)"]


def test_the_papers_runs_need_no_others(tmp_path: Path) -> None:
    where = ["--runs", str(tmp_path), "--out", str(tmp_path)]
    assert main(["op_bwt", "--published", "--model", "llama2-chat-13b", *where]) == 0
    assert (tmp_path / "op_bwt.png").exists()


@pytest.mark.parametrize("picture", ["curves", "op_bwt"])
def test_published_runs_of_other_tasks_are_left_out(
    picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(tmp_path / "embedded" / "tiny" / "gem" / "seed1")
    where = ["--runs", str(tmp_path), "--out", str(tmp_path / "plots")]
    assert main([picture, "--published", *where]) == 0
    with_published = (tmp_path / "plots" / f"{picture}.png").read_bytes()
    error = capsys.readouterr().err
    assert error.startswith("published, but of other tasks, left out: seqft, seqft+hft, ")
    assert error.count("\n") == 1
    assert main([picture, *where]) == 0
    assert (tmp_path / "plots" / f"{picture}.png").read_bytes() == with_published


def test_a_run_without_a_bwt_has_curves_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stored(tmp_path / "embedded" / "tiny" / "joint" / "seed1")
    (folder / "summary.json").write_text('{"untrained_rounds": [1, 2]}')
    where = ["--runs", str(tmp_path), "--out", str(tmp_path)]
    assert main(["curves", *where]) == 0
    capsys.readouterr()
    assert main(["op_bwt", *where]) == 2
    said, error = capsys.readouterr().err.splitlines()
    assert said == f"BWT is undefined, as a round trained nothing, left out: {folder}"
    assert error.startswith("error: none of these runs has a BWT")


def test_what_cannot_be_drawn_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = stored(tmp_path / "tiny" / "gem" / "seed1")
    other_model = stored(tmp_path / "qwen" / "gem" / "seed1")
    other_tasks = stored(tmp_path / "tiny" / "gem" / "seed2", ONE.rename(columns={"c": "d"}))
    unfinished = stored(tmp_path / "tiny" / "gem" / "seed3", ONE[:1])
    for runs, sentence in (
        ([tmp_path], "name folders such as runs/embedded/tiny/seqft/seed1"),
        ([one, other_model], f"{one} of tiny on {tmp_path.name}: draw them apart"),
        ([one, other_tasks], "have not the same tasks: draw them apart"),
        ([unfinished], "none of these runs is finished: only heatmaps can be drawn of them"),
        ([], f"there is no run under {tmp_path / 'embedded' / 'tiny'}: start one with python -m trace_cl"),
    ):
        assert main(["curves", *map(str, runs), "--runs", str(tmp_path), "--out", str(tmp_path)]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.splitlines()[-1].startswith("error: ")
        assert printed.err.endswith(sentence + "\n")
