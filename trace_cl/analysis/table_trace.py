"""What papers print of OP and BWT on TRACE, and our own runs: `python -m trace_cl.tables trace`.

They differ in TRACE's edition, the epochs, the order of the tasks, what BWT is divided by, and its sign. Each figure
stands as it is printed, with what is known of these; one column gives every BWT the sign that it has here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd

from trace_cl.analysis.shown import Shown
from trace_cl.analysis.stored import PAPER_BENCHMARK, StoredRun, by_method, find, last
from trace_cl.analysis.text import UNDEFINED, over_seeds
from trace_cl.records.files import PUBLISHED, read_json

ORDER = ("C-STANCE", "FOMC", "MeetingBank", "Py150", "ScienceQA", "NumGLUE-cm", "NumGLUE-ds", "20Minuten")
"""TRACE's own, order 1."""

CHANGE = "BWT (negative: forgotten)"

FLAGGED = "*"


@dataclass(frozen=True)
class Entry:
    """What is printed of one method. None: it is not stated, or not known here.

    `OP` and `BWT` are values as printed, with so many `digits`, of ours one a seed. `divisor` is `T` or `T-1`; `sign`
    is `change`, or `drop` where what is forgotten counts as positive. `copied` names the paper that the figures are
    said to be of, `mark` is a key of trace.json's `marks`.
    """

    method: str
    source: str
    model: str
    mark: str
    OP: Sequence[float | None]
    BWT: Sequence[float | None] = ()
    paper: str | None = None
    edition: str | None = None
    epochs: str | None = None
    order: str | None = None
    divisor: str | None = None
    sign: str = "change"
    digits: int = 1
    needs_task_id: bool = False
    copied: str | None = None

    @property
    def change(self) -> list[float | None]:
        """BWT with the sign that it has here: what later rounds did to earlier tasks."""
        return [-value if value is not None and self.sign == "drop" else value for value in self.BWT]


def published(content: dict[str, Any]) -> list[Entry]:
    """The rows of trace.json; what a row does not say is its table's."""
    return [
        Entry(
            **({"model": content["model"]} | {key: table[key] for key in table if key != "rows"} | row)
            | {figure: [row[figure]] if figure in row else [] for figure in ("OP", "BWT")}
        )
        for table in content["tables"]
        for row in table["rows"]
    ]


def own(seeds: Sequence[StoredRun]) -> Entry:
    """The runs of one method. The edition is how many examples each task was learned from."""
    run = seeds[0]
    records = [record for t in range(1, len(run.tasks) + 1) if (record := run.record(t))]
    sizes = sorted({record["examples"] for record in records})
    return Entry(
        method=run.method,
        source="ours" if run.benchmark == PAPER_BENCHMARK else f"ours, {run.benchmark}",
        model=run.model,
        mark="",
        OP=last(seeds, "OP"),
        BWT=last(seeds, "BWT"),
        edition=" to ".join(str(size) for size in dict.fromkeys([*sizes[:1], *sizes[-1:]])) or None,
        epochs="/".join(str(record["epochs"]) for record in records) or None,
        order="1" if tuple(run.tasks) == ORDER else "its own",
        divisor="T",
        needs_task_id=bool(run.summary.get("needs_task_id")),
    )


def mixed(entry: Entry, entries: Sequence[Entry]) -> str | None:
    """What is wrong with figures that a paper has from another, where OP and BWT are of different rows there."""
    theirs = [e for e in entries if entry.copied and e.source.startswith(f"{entry.copied},")]
    of_op, of_bwt = ([e for e in theirs if same(e, entry)] for same in (_same_op, _same_change))
    if entry.copied is None or any(e in of_bwt for e in of_op):
        return None

    def said(rows: Sequence[Entry]) -> str:
        each = [f"its {e.edition} edition ({_pair(e)})" for e in rows]
        return " or ".join(dict.fromkeys(each)) or "no row"

    return (
        f"Marked {FLAGGED}: {entry.source} prints {_pair(entry)} of {entry.method} as {entry.copied}'s, where that OP "
        f"is of {said(of_op)}, that BWT of {said(of_bwt)}."
    )


def _same_op(one: Entry, other: Entry) -> bool:
    return one.OP == other.OP


def _same_change(one: Entry, other: Entry) -> bool:
    return one.change == other.change != []


def _op(entry: Entry) -> str:
    return over_seeds(entry.OP, entry.digits)


def _change(entry: Entry) -> str:
    return over_seeds(entry.change, entry.digits)


def _pair(entry: Entry) -> str:
    return f"OP {_op(entry)} and BWT {_change(entry)}"


def make(model: str, benchmark: str, runs: Path, published_only: bool) -> Shown:
    """The table, with this model's runs. Raises UserError for a run that is damaged."""
    content = read_json(PUBLISHED / "trace.json")
    entries = published(content)
    found = [] if published_only else [run for run in find(runs, benchmark, model) if run.complete]
    flags = [mixed(entry, entries) for entry in entries]
    ours = [own(seeds) for seeds in by_method(found)]
    every = [*zip(entries, flags, strict=True), *((entry, None) for entry in ours)]
    wide = pd.DataFrame(
        [texts(entry) for entry, _ in every],
        index=pd.Index([entry.method + FLAGGED * (flag is not None) for entry, flag in every], name="method"),
    )
    caption = "OP and BWT on TRACE as papers print them"
    if ours:
        caption += f"; ours: {model} on {benchmark}{', which is another benchmark' * (benchmark != PAPER_BENCHMARK)}"
    marks = ", ".join(f"{mark}: {meaning}" for mark, meaning in content["marks"].items())
    notes = [
        *filter(None, flags),
        f"{CHANGE}: the sign alone is made ours. Divided by T-1 instead of T a BWT of eight tasks is 8/7 as large.",
        f"{UNDEFINED}: not stated, or not known here. Where edition, epochs or order differ figures are no comparison.",
        f"Marks: {marks}.",
    ]
    return Shown(pd.DataFrame([line(entry, flag) for entry, flag in every]), wide, caption, notes)


def texts(entry: Entry) -> dict[str, str]:
    """A row as it is shown."""
    words = {"edition": entry.edition, "epochs": entry.epochs, "order": entry.order, "divisor": entry.divisor}
    return {
        "model": entry.model,
        "OP": _op(entry),
        "BWT as printed": over_seeds(entry.BWT, entry.digits),
        "sign": entry.sign if entry.BWT else UNDEFINED,
        CHANGE: _change(entry),
        **{name: word or UNDEFINED for name, word in words.items()},
        "told the task": "yes" if entry.needs_task_id else "",
        "source": entry.source,
        "mark": entry.mark,
    }


def line(entry: Entry, flag: str | None) -> dict[str, Any]:
    """A row of the tidy table."""

    def average(values: Sequence[float | None]) -> float:
        known = [value for value in values if value is not None]
        return mean(known) if known else np.nan

    figures = {"OP": average(entry.OP), "BWT": average(entry.BWT), "change": average(entry.change)}
    rest = ("sign", "edition", "epochs", "order", "divisor", "needs_task_id", "source", "paper", "mark")
    return {
        "method": entry.method,
        "model": entry.model,
        **figures,
        **{key: getattr(entry, key) for key in rest},
        "seeds": len(entry.OP),
        "flag": flag,
    }
