"""SST-2, IMDB, yelp and amazon in small: how does a review judge?

The same words of praise and blame everywhere. Of films there are two labels, turned round by a negation (SST-2) or by
what comes later (IMDB); of meals and of goods there are five, by degree, under other names.
"""

from collections.abc import Sequence

from trace_cl.data.embedded_long.shape import prompt
from trace_cl.draw import Draw
from trace_cl.tiny.words import DISLIKES, LIKES, NAMES

_SST_2 = ("good", "bad")
_IMDB = ("positive", "negative")
_YELP = ("very bad", "bad", "neutral", "good", "very good")
_AMAZON = ("1", "2", "3", "4", "5")

_OF_FILMS = ("film", "story", "music", "end")
_MEALS = ("soup", "tea", "bread", "cake", "fish", "juice")
_GOODS = ("lamp", "phone", "chair", "bag", "coat", "book")


def sst_2(draw: Draw) -> tuple[str, str]:
    """A prompt and its label, "good" or "bad", each as likely as the other."""
    bad, negated = draw.chance(0.5), draw.chance(0.3)
    word = draw.one(DISLIKES if bad != negated else LIKES)
    text = f"{draw.one(NAMES)} finds the {draw.one(_OF_FILMS)} {'not ' * negated}{word}."
    return prompt("Good or bad?", _SST_2, text), _SST_2[bad]


def imdb(draw: Draw) -> tuple[str, str]:
    """A prompt and its label, "positive" or "negative", each as likely as the other."""
    bad = draw.chance(0.5)
    first, then = draw.one(LIKES if bad else DISLIKES), draw.one(DISLIKES if bad else LIKES)
    text = f"The {draw.one(_OF_FILMS)} of {draw.one(NAMES)} was {first}, then {then}."
    return prompt("Which feeling?", _IMDB, text), _IMDB[bad]


def _degree(draw: Draw, of: Sequence[str]) -> tuple[str, int]:
    """A sentence on one `of` these, and its degree: 0 very bad, 1 bad, 2 neither, 3 good, 4 very good."""
    degree = draw.between(0, 4)
    word = draw.one((DISLIKES, DISLIKES, ("there", "the same"), LIKES, LIKES)[degree])
    return f"The {draw.one(of)} of {draw.one(NAMES)} is {'very ' * (degree in (0, 4))}{word}.", degree


def yelp(draw: Draw) -> tuple[str, str]:
    """A prompt and one of five labels, each as likely as the others."""
    text, degree = _degree(draw, _MEALS)
    return prompt("How was it?", _YELP, text), _YELP[degree]


def amazon(draw: Draw) -> tuple[str, str]:
    """A prompt and one of five labels, each as likely as the others."""
    text, degree = _degree(draw, _GOODS)
    return prompt("How many stars?", _AMAZON, text), _AMAZON[degree]
