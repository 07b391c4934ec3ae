"""What a user did wrong, said in one sentence."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Bad input: its text is one sentence that names the file, line or key and the mend. The command exits with 2."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The names of `known` most like `word`, as a phrase for a message; where none is alike, the names' first parts."""
    names = sorted(known)
    return ", ".join(get_close_matches(word, names, n=3, cutoff=0.5) or sorted({n.partition(".")[0] for n in names}))
