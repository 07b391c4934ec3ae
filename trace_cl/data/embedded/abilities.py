"""General abilities: exercises in the skills that the tiny model was pretrained on, of which it has seen none.

They stand in, on the embedded benchmark, for what is lost of a large model besides its tasks.
"""

from itertools import cycle, islice

from trace_cl.draw import Draw
from trace_cl.tiny.material import SKILLS, exercise

SEED = 4
"""Not 1 nor 2, which the tokenizer and the weights were made with, nor 3, the general text's."""

SHOWN = 3
"""Examples that stand before an exercise."""

_COUNT = 20


def generate() -> dict[str, list[dict[str, str]]]:
    """By ability rows `{"prompt", "answer"}`, one an exercise, the same in every call."""
    draw = Draw(SEED)
    return {
        ability: [_row(*exercise(draw, skill, SHOWN)) for skill in islice(cycle(skills), _COUNT)]
        for ability, skills in SKILLS.items()
    }


def _row(prompt: str, answer: str) -> dict[str, str]:
    return {"prompt": prompt, "answer": answer}
