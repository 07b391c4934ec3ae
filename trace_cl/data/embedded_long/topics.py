"""dbpedia, agnews and yahoo in small: what is a text about?

One set of words, sorted three ways: into fourteen classes, ten topics and four sorts of news.
"""

from trace_cl.data.embedded_long.shape import prompt
from trace_cl.draw import Draw
from trace_cl.tiny.words import COLORS, DAYS, KINDS, NAMES, TOWNS

_SUBJECTS: tuple[tuple[tuple[str, ...], tuple[str | None, str | None, str | None]], ...] = (
    # words, and their class (dbpedia), topic (yahoo) and sort of news (agnews), where they have one
    (KINDS["mammal"], ("mammal", "home", None)),
    (KINDS["bird"], ("bird", "garden", None)),
    (KINDS["fish"], ("fish", "food", None)),
    (KINDS["reptile"], ("reptile", None, None)),
    (KINDS["insect"], ("insect", None, None)),
    (KINDS["fruit"], ("fruit", "food", None)),
    (KINDS["tree"], ("tree", "garden", None)),
    (KINDS["tool"], ("tool", "home", None)),
    (KINDS["metal"], ("metal", "science", "business")),
    (KINDS["gas"], ("gas", "science", "science")),
    (TOWNS[:6], ("city", "world", "world")),
    (COLORS[:6], ("color", None, None)),
    (DAYS[:6], ("date", None, None)),
    (("letter", "title", "version", "word", "line", "text"), ("book", "school", None)),
    (("ball", "bike", "basket", "player", "score", "whistle"), (None, "sport", "sport")),
    (("account", "coin", "dollar", "price", "wages", "wallet"), (None, "business", "business")),
    (("file", "folder", "json", "logger", "client", "user"), (None, "data", "science")),
    (("member", "message", "meeting", "motion"), (None, "law", "world")),
)


def _about(draw: Draw, column: int) -> tuple[str, str, tuple[str, ...], str]:
    """Two words of one subject, the labels of this column, and the subject's."""
    labelled = [(words, label) for words, its in _SUBJECTS if (label := its[column]) is not None]
    labels = tuple(dict.fromkeys(label for _, label in labelled))
    label = draw.one(labels)
    one, other = draw.some(draw.one([words for words, its in labelled if its == label]), 2)
    return one, other, labels, label


def dbpedia(draw: Draw) -> tuple[str, str]:
    """A prompt and one of fourteen classes, each as likely as the others."""
    one, other, labels, label = _about(draw, 0)
    return prompt("Which class?", labels, f"{draw.one(NAMES)} wrote: {one} and {other}."), label


def yahoo(draw: Draw) -> tuple[str, str]:
    """A prompt and one of ten topics, each as likely as the others."""
    one, other, labels, label = _about(draw, 1)
    return prompt("Which topic?", labels, f"{draw.one(NAMES)}: what has {one} to do with {other}?"), label


def agnews(draw: Draw) -> tuple[str, str]:
    """A prompt and one of four sorts of news, each as likely as the others."""
    one, other, labels, label = _about(draw, 2)
    return prompt("Which news?", labels, f"{one.capitalize()} and {other}, said {draw.one(NAMES)}."), label
