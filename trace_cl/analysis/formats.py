"""Which task's answers a text looks like: a multinomial naive Bayes over trigrams of characters, one class a format.

A format is that of the reference answers of one task, or of several whose references are the same but for their digits
(two tasks with answers A, B and C; two with whole numbers). Manning, Raghavan and Schütze (2008, *Introduction to
Information Retrieval*, section 13.2) have the classifier, with every format as probable as another beforehand; mixed
with a uniform distribution (their section 12.2.2), so that what occurs in no format speaks for none.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

UNIFORM = 0.1
"""How much of the mixture is uniform; their advice for short texts."""


@dataclass
class Formats:
    """The formats of some tasks, from their reference answers."""

    references: Mapping[str, Sequence[str]]
    of: dict[str, str] = field(init=False)
    """The format of each task, named by the first task that has it."""
    logs: pd.DataFrame = field(init=False)
    """The logarithm of each trigram's probability: a row a trigram, the last one for those that occur in no format, and
    a column a format."""

    def __post_init__(self) -> None:
        texts = {task: list(map(plain, texts)) for task, texts in self.references.items()}
        self.of = {}
        for task, own in texts.items():
            self.of[task] = next((other for other in self.of if alike(own, texts[other])), task)
        members: dict[str, list[str]] = {}
        for task, own in texts.items():
            members.setdefault(self.of[task], []).extend(own)
        counts = pd.DataFrame({name: trigrams(own)[0].value_counts() for name, own in members.items()}).fillna(0)
        counts.loc[NOWHERE] = 0
        self.logs = ((1 - UNIFORM) * counts / counts.sum() + UNIFORM / (len(counts) - 1)).apply(np.log)

    def closest(self, texts: Sequence[str], own: str = "") -> list[str]:
        """Of each text the format that makes it most probable; the first of those that are equal, but before others
        `own`."""
        grams, starts = trigrams(list(map(plain, texts)))
        rows = self.logs.index.get_indexer(pd.Index(grams))  # -1, the last row, for what is not there
        names = sorted(self.logs, key=lambda name: name != own)
        sums = [np.add.reduceat(self.logs[name].to_numpy()[rows], starts) for name in names]
        return [names[best] for best in np.argmax(sums, axis=0)]


NOWHERE = -1
"""Stands for the trigrams that occur in no format."""


def alike(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether most texts of each also occur in the other."""
    return all(
        2 * sum(text in known for text in here) > len(here)
        for here, known in ((one, frozenset(other)), (other, frozenset(one)))
    )


def plain(text: str) -> str:
    """The text with every number one digit, as which number it is says nothing of the format."""
    return re.sub(r"\d+", "0", text.strip())


def trigrams(texts: Sequence[str]) -> tuple["pd.Series[int]", np.ndarray]:
    """Three characters each, as one number, of every text between two marks of its beginning and one of its end; and
    where among them each text's begin."""
    marked = [f"\2\2{text}\3" for text in texts]
    characters = np.frombuffer("".join(marked).encode("utf-32-le"), dtype=np.uint32).astype(np.int64)
    grams = characters[:-2] << 42 | characters[1:-1] << 21 | characters[2:]  # a character has 21 bits
    ends = np.cumsum([len(text) for text in marked])
    within = np.ones(len(characters), dtype=bool)
    within[ends - 1] = within[ends - 2] = False  # what begins there goes on into the next text
    return pd.Series(grams[within[:-2]]), np.concatenate([[0], ends[:-1] - 2 * np.arange(1, len(ends))])
