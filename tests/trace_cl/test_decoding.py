"""The part of a text that is said to be final is the beginning of whatever the text becomes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trace_cl.decoding import Decoder
from trace_cl.tiny import CHECKPOINT
from trace_cl.training.model import load_tokenizer


def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama-2's: words that carry their blank, and a token for every byte."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁A", "▁", "A", "B", "是", "▁.", "é"]
    tokenizer = Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def word_pieces() -> PreTrainedTokenizerFast:
    """As BERT's, which would draw punctuation to the word before it."""
    tokens = ["[UNK]", "[SEP]", "do", "##ing", "not", ".", ",", "'", "t", "n't", "##s"]
    tokenizer = Tokenizer(models.WordPiece({token: id for id, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="[SEP]", unk_token="[UNK]", clean_up_tokenization_spaces=True
    )


TOKENIZERS = {"bytes": load_tokenizer(str(CHECKPOINT)), "sentencepiece": sentencepiece(), "word pieces": word_pieces()}

SPREAD = {name: tokenizer("是é\n是 A", add_special_tokens=False).input_ids for name, tokenizer in TOKENIZERS.items()}
"""Ids of characters that take several tokens."""


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_what_is_final_stays_whatever_follows(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]
    likely = [*SPREAD[name], *range(min(len(tokenizer), 270)), *range(250, min(len(tokenizer), 270))]
    ids = data.draw(st.lists(st.sampled_from(likely), max_size=12))
    decoder = Decoder(tokenizer)
    texts = [decoder.text(ids[:end]) for end in range(len(ids) + 1)]
    for end in range(len(ids) + 1):
        final = decoder.final(ids[:end])
        assert all(text.startswith(final) for text in texts[end:])


@pytest.mark.parametrize(("name", "text"), [("bytes", "A 是é B"), ("sentencepiece", "A是B"), ("word pieces", "do not")])
def test_a_whole_text_is_final(name: str, text: str) -> None:
    tokenizer, decoder = TOKENIZERS[name], Decoder(TOKENIZERS[name])
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert decoder.final(ids) == decoder.text(ids) == text
    assert decoder.final([*ids, tokenizer.eos_token_id]) == text


def test_a_byte_spoils_those_before_it() -> None:
    """Why bytes that are tokens are not final, though they read well."""
    tokenizer = TOKENIZERS["sentencepiece"]
    ids = [tokenizer.get_vocab()[token] for token in ("A", "<0x42>", "<0xFF>")]
    decoder = Decoder(tokenizer)
    assert [decoder.text(ids[:2]), decoder.text(ids)] == ["AB", "A\ufffd\ufffd"]
    assert decoder.final(ids[:2]) == "A"


def test_blanks_before_punctuation_stay() -> None:
    tokenizer = TOKENIZERS["word pieces"]
    ids = [tokenizer.get_vocab()[token] for token in ("do", "not", ".")]
    assert Decoder(tokenizer).text(ids) == "do not ."
    assert tokenizer.decode(ids) == "do not."
