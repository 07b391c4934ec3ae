"""Figures and matrices as text: one decimal, a dash for what is undefined, nothing where nothing was scored."""

from collections.abc import Collection, Mapping, Sequence
from statistics import mean, stdev

import pandas as pd

from trace_cl import metrics

UNDEFINED = "–"

RECOMPUTED = "†"
"""Marks a figure of a published run that the paper does not print."""

Figures = Mapping[str, Sequence[float | None]]
"""By name, a value a finished round; None where it is undefined (`metrics.figures`)."""


def number(value: float | None, sign: str = "", digits: int = 1) -> str:
    """One decimal, or so many, with `sign="+"` signed; a dash for a figure that is undefined or not there."""
    return UNDEFINED if value is None or pd.isna(value) else f"{value:{sign}z.{digits}f}"


def over_seeds(values: Sequence[float | None], digits: int = 1) -> str:
    """Mean ± standard deviation (of the sample, n − 1); a single value as it is."""
    defined = [value for value in values if value is not None]
    if len(defined) > 1:
        return f"{mean(defined):z.{digits}f} ± {stdev(defined):.{digits}f}"
    return number(defined[0] if defined else None, digits=digits)


def at(values: Sequence[float | None], t: int) -> float | None:
    """The value of round t, if there is one."""
    return values[t - 1] if t <= len(values) else None


def reported(figures: Figures, printed: Figures, name: str, t: int, sign: str = "") -> str:
    """A figure after round t: of a published run what is `printed`, or else recomputed and marked; of ours as it is."""
    said = at(printed.get(name, ()), t)
    if said is not None:
        return number(said, sign)
    return number(figures[name][t - 1], sign) + (RECOMPUTED if printed else "")


def headline(figures: Figures, printed: Figures | None = None) -> str:
    """The figures after the newest round: `OP 51.3, BWT -5.6, learned 56.9`."""
    return ", ".join(
        f"{f.name} {reported(figures, printed or {}, f.name, len(figures[f.name]), '+' if f.signed else '')}"
        for f in metrics.FIGURES
    )


def identity(needs_task_id: bool | None) -> str:
    """What a method has to be told when it answers, in one sentence; nothing where that is not known."""
    if needs_task_id is None:
        return ""
    if needs_task_id:
        return "When it answers, this method has to be told which task a text belongs to."
    return "When it answers, this method is not told which task a text belongs to."


def size(bytes: int) -> str:
    """Bytes for people."""
    return f"{bytes / 2**30:.1f} GiB" if abs(bytes) >= 2**30 else f"{bytes / 2**20:.1f} MiB"


def legend(figures: Sequence[metrics.Figure] | None = None) -> str:
    """What each figure (by default `metrics.FIGURES`) means, and how it is computed."""
    explained = metrics.FIGURES if figures is None else figures
    return "; ".join(f"{figure.name}: {figure.meaning} ({figure.formula})" for figure in explained) + "."


def undefined(untrained: Collection[int]) -> str:
    """Why figures are missing, in one sentence; nothing where none is."""
    names = [figure.name for figure in metrics.FIGURES if figure.of_learned]
    if not untrained or not names:
        return ""
    rounds = f"round{'s' * (len(untrained) > 1)} {', '.join(map(str, sorted(untrained)))}"
    return (
        f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} undefined ({UNDEFINED}): {rounds} trained nothing, "
        "so that there is no score just after learning."
    )


def square(rows: Sequence[Sequence[float]]) -> list[list[float | None]]:
    """A run's rows (row t with t scores) as a t × t matrix, None above the diagonal."""
    return [[*row, *[None] * (len(rows) - len(row))] for row in rows]


def table(
    rows: Sequence[Sequence[float]], tasks: Sequence[str], figures: Figures | None = None, sign: str = ""
) -> pd.DataFrame:
    """The paper's layout, of texts: a row a task and a column a round, then a row a figure.

    `figures` are by default those of the rows, all rounds trained.
    """
    rounds = range(1, len(rows) + 1)
    lines = {task: ["" if i >= t else number(rows[t - 1][i], sign) for t in rounds] for i, task in enumerate(tasks)} | {
        name: [number(value, sign) for value in values]
        for name, values in (metrics.figures(square(rows)) if figures is None else figures).items()
    }
    frame = pd.DataFrame.from_dict(lines, orient="index", columns=[str(t) for t in rounds])
    return frame.rename_axis(index="task \\ round")


def render(rows: Sequence[Sequence[float]], tasks: Sequence[str], figures: Figures | None = None) -> str:
    """The table for a terminal."""
    return table(rows, tasks, figures).to_string()


def texts(frame: pd.DataFrame) -> list[list[str]]:
    """The lines of a frame, its header first: figures with one decimal, texts as they are, nothing where there is no
    figure."""
    return [
        [str(frame.index.name), *map(str, frame.columns)],
        *(
            [str(name), *(v if isinstance(v, str) else "" if pd.isna(v) else f"{v:.1f}" for v in row)]
            for name, row in zip(frame.index, frame.to_numpy(), strict=True)
        ),
    ]


def markdown(frame: pd.DataFrame) -> str:
    """A frame's `texts` as a Markdown table."""
    [header, *lines] = texts(frame)
    lines = [header, ["---", *["---:"] * len(frame.columns)], *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
