"""The embedded sequence of fifteen small tasks after the "long sequence" of O-LoRA (arXiv 2310.14152) and Progressive
Prompts (arXiv 2301.12314), made on the spot.

No files and no network. Names and prompt shape are those of the sequence, the texts are our own. There are four
families, a module each: within one the same words stand under other labels, so that a task learned later forgets an
earlier one, and the same rule comes back, so that it is learned faster.
"""

from collections.abc import Callable

from trace_cl.data.embedded import lima, splits
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
_TRAIN, _LIMA, _SCORED = 160, 40, 30


def generate() -> dict[str, dict[str, list[dict[str, str]]]]:
    """Task name (order 4, then "Lima") -> "train", "eval", "test" -> `{"prompt", "answer"}` rows.

    Within a task no prompt comes twice, in one split or in two; every call returns the same bytes.
    """
    tasks = {
        task: splits(example, seed, _TRAIN, _SCORED, _SCORED) for seed, (task, example) in enumerate(_TASKS.items())
    }
    return tasks | {"Lima": splits(lima.example, len(tasks), _LIMA, _SCORED, _SCORED)}
