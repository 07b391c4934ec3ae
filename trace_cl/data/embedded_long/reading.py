"""QQP, WiC, COPA, BoolQA and MultiRC in small: two things are read, and compared.

In each the answer hangs on two words together, and on neither alone. All but COPA are answered with "True" or "False".
"""

from trace_cl.data.embedded_long.shape import prompt
from trace_cl.draw import Draw
from trace_cl.tiny.words import NAMES, THINGS, TOWNS

_TRUTH = ("True", "False")

_HOW = ("old", "long", "good")
_THING_OR_COLOR = ("orange", "silver", "gold", "copper", "cherry", "lemon")
_SENSES = (("bought a bit of", "lost a bit of"), ("likes the color", "has a dress in"))
_REASONS = ("wind", "a dog")
_RESULTS = ("noise", "a hole")
_MOVED = (("rose", "went up"), ("fell", "went down"))
_FELT = (("likes", "wants"), ("dislikes", "throws out"))


def qqp(draw: Draw) -> tuple[str, str]:
    """Two questions, and whether they ask the same: both of now, or neither."""
    how, thing, who = draw.one(_HOW), draw.one(THINGS), draw.one(NAMES)
    first, second = draw.chance(0.5), draw.chance(0.5)
    text = f"How {how} is the {thing} of {who}{' now' * first}? The {thing}: how {how} is it{' now' * second}?"
    return prompt("Same question?", _TRUTH, text), _TRUTH[first != second]


def wic(draw: Draw) -> tuple[str, str]:
    """A word in two sentences, and whether it means the same in both: the thing, or the color."""
    word = draw.one(_THING_OR_COLOR)
    first, second = draw.chance(0.5), draw.chance(0.3)
    text = " ".join(f"{draw.one(NAMES)} {draw.one(_SENSES[sense])} {word}." for sense in (first, second))
    return prompt("Same meaning?", _TRUTH, text), _TRUTH[first != second]


def copa(draw: Draw) -> tuple[str, str]:
    """A reason and a result in random order, and which of them was asked for, "A" or "B"."""
    asked, place = draw.chance(0.3), draw.between(0, 1)
    told = (draw.one(_REASONS), draw.one(_RESULTS))
    a, b = told if place == asked else told[::-1]
    text = f"The {draw.one(THINGS)} of {draw.one(NAMES)} fell. A: {a}, B: {b}. The {('reason', 'result')[asked]}?"
    return prompt("A or B?", "AB", text), "AB"[place]


def boolqa(draw: Draw) -> tuple[str, str]:
    """A sentence on a price, and whether it moved as the question has it."""
    fell, asked = draw.chance(0.5), draw.chance(0.3)
    price = f"The price of the {draw.one(THINGS)} {draw.one(_MOVED[fell])} in {draw.one(TOWNS)}."
    return prompt("Is it so?", _TRUTH, f"{price} Did it {('rise', 'fall')[asked]}?"), _TRUTH[fell != asked]


def multirc(draw: Draw) -> tuple[str, str]:
    """A sentence, a question and an answer, and whether that is a right one."""
    disliked, answered = draw.chance(0.5), draw.chance(0.3)
    opinion = f"{draw.one(NAMES)} {draw.one(_FELT[disliked])} the {draw.one(THINGS)}."
    text = f"{opinion} How is it? It is {('good', 'bad')[answered]}."
    return prompt("Right answer?", _TRUTH, text), _TRUTH[disliked != answered]
