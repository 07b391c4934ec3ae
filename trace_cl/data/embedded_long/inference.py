"""MNLI, CB and RTE in small: what follows from a sentence?

MNLI and RTE share their sentences, where a word of quantity decides; in CB it is the verb of who says a thing. In all
of them a conclusion that is negated turns the answer round, and each has labels of its own.
"""

from trace_cl.data.embedded_long.shape import prompt
from trace_cl.draw import Draw
from trace_cl.tiny.words import COLORS, NAMES, THINGS, TOWNS

_MNLI = ("entailment", "neutral", "contradiction")
_CB = ("yes", "maybe", "no")
_RTE = ("True", "False")

_BY_QUANTITY = {"Each": 0, "Some": 1, "No": 2}
_BY_VERB = {"saw": 0, "noted": 0, "said": 1, "heard": 1, "lied": 2, "was wrong": 2}


def _conclusion(draw: Draw, relation: int) -> tuple[str, int]:
    """What the conclusion has before its color, and the relation to it: 0 follows, 1 may be, 2 contradicts."""
    return ("not ", 2 - relation) if draw.chance(0.3) else ("", relation)


def _quantified(draw: Draw, quantities: tuple[str, ...]) -> tuple[str, int]:
    quantity, thing, color = draw.one(quantities), draw.one(THINGS), draw.one(COLORS)
    negation, relation = _conclusion(draw, _BY_QUANTITY[quantity])
    return f"{quantity} {thing} in {draw.one(TOWNS)} is {color}. So this {thing} is {negation}{color}.", relation


def mnli(draw: Draw) -> tuple[str, str]:
    """A prompt and one of three labels, each as likely as the others."""
    text, relation = _quantified(draw, tuple(_BY_QUANTITY))
    return prompt("Does it follow?", _MNLI, text), _MNLI[relation]


def rte(draw: Draw) -> tuple[str, str]:
    """A prompt and whether the conclusion follows, "True" or "False", about as often."""
    text, relation = _quantified(draw, ("Each", "Each", "Each", "Some", "No"))
    return prompt("True or not?", _RTE, text), _RTE[min(relation, 1)]


def cb(draw: Draw) -> tuple[str, str]:
    """A prompt and one of three labels, each as likely as the others."""
    verb, color = draw.one(tuple(_BY_VERB)), draw.one(COLORS)
    negation, relation = _conclusion(draw, _BY_VERB[verb])
    text = f"{draw.one(NAMES)} {verb} that the {draw.one(THINGS)} is {color}. So it is {negation}{color}."
    return prompt("Is it so?", _CB, text), _CB[relation]
