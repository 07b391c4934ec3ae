"""The embedded benchmark: eight small tasks after TRACE's (arXiv 2310.06762), made on the spot.

No files and no network. Each task is one module with a function `example(draw)`; prompt shape, answer type and metric
are those of the TRACE task of that name, the texts are our own, and much shorter.
"""

from collections.abc import Callable

from trace_cl.data.embedded import c_stance, fomc, lima, meetingbank, minuten, numglue_cm, numglue_ds, py150, scienceqa
from trace_cl.draw import Draw

_TASKS: dict[str, tuple[Callable[[Draw], tuple[str, str]], int]] = {
    # task: (example, training examples). Long texts learned for seven epochs come in smaller numbers, tasks of three
    # epochs in larger ones, so that the eight rounds cost about the same time.
    "C-STANCE": (c_stance.example, 240),
    "FOMC": (fomc.example, 300),
    "MeetingBank": (meetingbank.example, 100),
    "Py150": (py150.example, 120),
    "ScienceQA": (scienceqa.example, 400),
    "NumGLUE-cm": (numglue_cm.example, 300),
    "NumGLUE-ds": (numglue_ds.example, 300),
    "20Minuten": (minuten.example, 100),
    "Lima": (lima.example, 100),
}
_EVAL, _TEST = 40, 50


def generate() -> dict[str, dict[str, list[dict[str, str]]]]:
    """Task name (TRACE's order, then "Lima") -> "train", "eval", "test" -> `{"prompt", "answer"}` rows.

    Within a task no prompt comes twice, in one split or in two; every call returns the same bytes.
    """
    return {
        task: split(rows(example, seed, train + _EVAL + _TEST), _EVAL, _TEST)
        for seed, (task, (example, train)) in enumerate(_TASKS.items())
    }


def rows(example: Callable[[Draw], tuple[str, str]], seed: int, count: int) -> list[dict[str, str]]:
    """So many of a task's examples, drawn by `seed`, as rows; no prompt comes twice."""
    draw, answers = Draw(seed), dict[str, str]()
    while len(answers) < count:
        prompt, answer = example(draw)
        answers.setdefault(prompt, answer)
    return [{"prompt": prompt, "answer": answer} for prompt, answer in answers.items()]


def split(rows: list[dict[str, str]], eval: int, test: int) -> dict[str, list[dict[str, str]]]:
    """The last rows are the test split, those before them eval, and all others train."""
    return {"train": rows[: -eval - test], "eval": rows[-eval - test : -test], "test": rows[-test:]}
