"""The embedded sequence of fifteen small tasks after the "long sequence" of O-LoRA (arXiv 2310.14152) and Progressive
Prompts (arXiv 2301.12314), made on the spot.

No files and no network. Names and prompt shape are those of the sequence, the texts are our own. There are four
families, a module each: within one the same words stand under other labels, so that a task learned later forgets an
earlier one, and the same rule comes back, so that it is learned faster.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator

from trace_cl.data.embedded import lima, rows, split
from trace_cl.data.embedded_long import inference, reading, sentiment, topics
from trace_cl.draw import Draw

_TASKS: dict[str, Callable[[Draw], tuple[str, str]]] = {
    "MNLI": inference.mnli,
    "CB": inference.cb,
    "WiC": reading.wic,
    "COPA": reading.copa,
    "QQP": reading.qqp,
    "BoolQA": reading.boolqa,
    "RTE": inference.rte,
    "IMDB": sentiment.imdb,
    "yelp": sentiment.yelp,
    "amazon": sentiment.amazon,
    "SST-2": sentiment.sst_2,
    "dbpedia": topics.dbpedia,
    "agnews": topics.agnews,
    "MultiRC": reading.multirc,
    "yahoo": topics.yahoo,
}
_TRAIN, _SCORED, _LIMA = 160, 30, 40


def generate() -> dict[str, dict[str, list[dict[str, str]]]]:
    """Task name (order 4, then "Lima") -> "train", "eval", "test" -> `{"prompt", "answer"}` rows.

    Within a task no prompt comes twice, in one split or in two; in a split no label has more than two rows more than
    another; every call returns the same bytes.
    """
    count = _TRAIN + 2 * _SCORED
    drawn = {
        task: _in_turn(rows(example, seed, 2 * count))[:count] for seed, (task, example) in enumerate(_TASKS.items())
    }
    drawn["Lima"] = rows(lima.example, len(_TASKS), _LIMA + 2 * _SCORED)
    return {task: split(its, _SCORED, _SCORED) for task, its in drawn.items()}


def _in_turn(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The first row of each label, then the second of each, and so on."""
    turns: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
    return sorted(rows, key=lambda row: next(turns[row["answer"]]))
