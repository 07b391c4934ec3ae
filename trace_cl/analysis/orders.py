"""Orders of the tasks as an experiment: what a method gives over several, and how far that is not the seeds' doing.

Of each order the mean over its seeds; of these means the mean, and their standard deviation: the spread over orders.
The spread over seeds is that of the runs in one order, pooled over the orders (the root of the mean variance). With k
seeds an order, seeds alone would spread the orders' means by a √k-th of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev, variance

import pandas as pd

from trace_cl import identity, metrics
from trace_cl.analysis.stored import StoredRun, by_method, last, method_order, natural
from trace_cl.analysis.text import UNDEFINED, markdown, number

SPREAD = "over orders", "over seeds"


@dataclass(frozen=True)
class Ordered:
    """The finished runs of a method by the order of the tasks, seed by seed."""

    method: str
    runs: dict[str, list[StoredRun]]

    def values(self, figure: str) -> dict[str, list[float]]:
        """A figure after the last round by order, one a seed; without those of which it is undefined."""
        found = {
            order: [value for value in last(seeds, figure) if value is not None] for order, seeds in self.runs.items()
        }
        return {order: values for order, values in found.items() if values}


def by_order(runs: Iterable[StoredRun]) -> list[Ordered]:
    """The methods that have finished runs in more than one order of the same tasks, with those. Raises UserError where
    seeds of one order differ in more than the seed."""
    found: dict[str, dict[str, list[StoredRun]]] = {}
    for seeds in by_method(run for run in runs if run.complete and run.written):
        settings = seeds[0].written | {identity.ORDER: seeds[0].own[identity.ORDER]}
        method = identity.method_name(seeds[0].strategy, settings, seeds[0].own)
        if sorted(seeds[0].tasks) != sorted(seeds[0].own[identity.ORDER]):
            method += f" of {', '.join(sorted(seeds[0].tasks))}"
        found.setdefault(method, {})[identity.order_in_words(seeds[0].tasks, seeds[0].own)] = seeds
    return [
        Ordered(method, dict(sorted(found[method].items(), key=lambda each: natural(each[0]))))
        for method in sorted(found, key=method_order)
        if len(found[method]) > 1
    ]


def spread(values: dict[str, list[float]]) -> tuple[float, float | None, float | None]:
    """Of a figure by order, one a seed: the mean of the orders' means, and the standard deviations over orders and over
    seeds; None where there is but one."""
    means = [mean(seeds) for seeds in values.values()]
    variances = [variance(seeds) for seeds in values.values() if len(seeds) > 1]
    return (
        mean(means),
        stdev(means) if len(means) > 1 else None,
        sqrt(mean(variances)) if variances else None,
    )


def table(methods: Sequence[Ordered]) -> pd.DataFrame:
    """A row a method, of texts: each figure's mean, and its spread over orders and over seeds."""
    lines = {}
    for method in methods:
        seeds = sorted({len(runs) for runs in method.runs.values()})
        line = {"orders": str(len(method.runs)), "seeds": "–".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))}
        for figure in metrics.FIGURES:
            values = method.values(figure.name)
            texts = [number(value) for value in spread(values)] if values else [UNDEFINED] * 3
            line |= dict(zip((figure.name, *(f"{figure.name} {word}" for word in SPREAD)), texts, strict=True))
        lines[method.method] = line
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis(index="method")


def section(methods: Sequence[Ordered]) -> str:
    """The table, and of each method in a sentence how the spread over orders compares with that over seeds; empty where
    no method has several orders."""
    if not methods:
        return ""
    return f"**Over orders of the tasks**\n\n{markdown(table(methods))}\n\n{chr(10).join(map(sentence, methods))}"


def sentence(method: Ordered) -> str:
    """What order and seed do to a method's OP."""
    middle, orders, seeds = spread(method.values("OP"))
    said = (
        f"{method.method}: OP {middle:.1f}; the order moves it by ± {number(orders)}, another seed by ± {number(seeds)}"
    )
    if seeds is None:
        return f"{said}."
    runs = mean(len(seeds) for seeds in method.runs.values())
    return f"{said}, of which ± {seeds / sqrt(runs):.1f} is left in an order's mean."
