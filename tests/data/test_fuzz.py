"""Thousands of spoiled files: each is read as rows that can be used, or refused with one sentence that names it."""

import json
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import pytest
from datasets import Dataset

from trace_cl.data import files
from trace_cl.data.readers.trace import read_split
from trace_cl.errors import UserError

TEXTS = ["p", "", " \n", "是 é 😀", "\ud800", "\udfff x", "\0", "\u2028", "<STR_LIT:x>", '"\\', "a" * 2000]
OTHERS: list[Any] = [None, True, 3, -1.5, float("nan"), [], {}, ["p"], {"prompt": "p"}, [[[[]]]]]
PIECES = [
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\u", b"\\ud800", b"\xff", b"\xef\xbb\xbf", b"\0", b"\r\n"),
    *(b"null", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"//", "\u2028是".encode()),
    *(b"[" * 100_000, b'{"a":' * 5000, b'"prompt": "p",', b'"answer"'),
]


def spoiled(draw: Random) -> bytes:
    """A file with a few faults, in what it says or in its bytes."""
    rows: list[Any] = [{"prompt": f"p{number}", "answer": "a"} for number in range(draw.randrange(4))]
    for _ in range(draw.choice([0, 0, 1, 2])):
        value = draw.choice(TEXTS) if draw.random() < 0.7 else deepcopy(draw.choice(OTHERS))
        place = draw.randrange(len(rows) + 1)
        if place < len(rows) and isinstance(rows[place], dict):
            rows[place][draw.choice(["prompt", "answer", "prompt", "answer", "more", "\ud800"])] = value
        else:
            rows.insert(place, value)
    whole = rows if draw.random() < 0.95 else draw.choice([*OTHERS, *rows, "rows", {"rows": rows}])
    text = bytearray(json.dumps(whole, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass"))
    for _ in range(draw.choice([0, 1, 1, 2, 5])):
        first = draw.randrange(len(text) + 1)
        last = min(len(text), first + draw.choice([0, 0, 1, 2, 30]))
        text[first:last] = draw.choice(PIECES) if draw.random() < 0.7 else text[last : last + draw.randrange(40)]
    return bytes(text)


def read(file: Path, content: bytes) -> tuple[list[dict[str, str]], str]:
    """What becomes of a file: rows, or the sentence that refuses it."""
    file.write_bytes(content)
    try:
        return read_split(file), ""
    except UserError as error:
        sentence = str(error)
        assert sentence.startswith(str(file))
        assert sentence.isprintable()
        assert len(sentence) < len(str(file)) + 200
        return [], sentence.removeprefix(str(file))


KINDS = ("line 1", "UTF-8", "nested", "the most", "U+D800", "twice", "is missing", "is empty", "must be an object")


@pytest.mark.parametrize("count", [3_000, pytest.param(50_000, marks=pytest.mark.fuzz)])
def test_spoiled_files_are_read_or_refused_with_a_sentence(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LONGEST", 1500)
    draw, good, sentences = Random(count), [], set()
    for _ in range(count):
        rows, sentence = read(tmp_path / "train.json", spoiled(draw))
        assert bool(rows) != bool(sentence)
        good += rows
        sentences.add(sentence)
    assert len(good) > count / 10
    assert all(set(row) == {"prompt", "answer"} for row in good)
    assert all(text.strip() and len(text) <= 1500 for row in good for text in row.values())
    assert Dataset.from_list(good, files.FEATURES).to_list() == good
    for kind in KINDS:
        assert any(kind in sentence for sentence in sentences), kind
