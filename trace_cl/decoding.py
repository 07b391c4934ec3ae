"""Generated ids as text, and how much of that text no further id can change."""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
"""A token that stands for one byte, as SentencePiece names it."""


class Decoder:
    """Turns ids into text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.skipped = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}

    def text(self, ids: Sequence[int]) -> str:
        """The text without special tokens; as in TRACE blanks before punctuation stay, for in code they are meant."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def final(self, ids: Sequence[int]) -> str:
        """The beginning of the text that stays, whatever follows.

        A character may be spread over several tokens, and until its last byte is there it shows as U+FFFD. Bytes that
        are tokens of their own are read together: one that does not fit spoils all that stand before it in a row.
        """
        end = len(ids)
        while end and (ids[end - 1] in self.skipped or self._is_byte(ids[end - 1])):
            end -= 1
        return self.text(ids[:end]).rstrip("\N{REPLACEMENT CHARACTER}")

    def _is_byte(self, id: int) -> bool:
        return _BYTE.fullmatch(str(self.tokenizer.convert_ids_to_tokens(id))) is not None
