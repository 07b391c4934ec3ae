"""The answers of a round that is being scored: put by as they come, so that interrupted scoring goes on with them."""

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trace_cl.records.files import guard, write

Rows = list[list[int]]
"""Generated token ids, a row a prompt."""


class Answers:
    """One rank's answers, a line a batch of prompts. `after_each` is called when a batch is on the disk."""

    def __init__(self, path: Path, after_each: Callable[[], None]) -> None:
        self.path = path
        self.after_each = after_each
        self.lines = self._read()

    def of(self, what: str) -> "Part":
        """Those to the prompts of one task in one round."""
        return Part(self, what)

    def add(self, key: str, rows: Rows) -> None:
        """Put a batch's answers by."""
        self.lines[key] = rows
        with guard(self.path):
            self.path.parent.mkdir(exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(key, rows))
        self.after_each()

    def forget(self) -> None:
        """The round is finished, or its training begins anew."""
        self.lines = {}
        with guard(self.path):
            self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Rows]:
        """What lies there, up to the first line that was not written to its end."""
        lines: dict[str, Rows] = {}
        if not self.path.exists():
            return lines
        content = self.path.read_text(encoding="utf-8", errors="replace")
        for line in content.splitlines(keepends=True):
            try:
                key, rows, _ = json.loads(line)
            except (ValueError, TypeError):
                break
            if line != _line(key, rows):
                break
            lines[key] = rows
        if content != (whole := "".join(_line(key, rows) for key, rows in lines.items())):
            write(self.path, whole)
        return lines


@dataclass(frozen=True)
class Part:
    """What scoring asks before it generates, and tells after it has."""

    answers: Answers
    of: str

    def get(self, key: str) -> Rows | None:
        """The answers to a batch, if they are there."""
        return self.answers.lines.get(f"{self.of}/{key}")

    def put(self, key: str, rows: Rows) -> None:
        """Put a batch's answers by."""
        self.answers.add(f"{self.of}/{key}", rows)


def _line(key: str, rows: Rows) -> str:
    return json.dumps([key, rows, zlib.crc32(json.dumps([key, rows]).encode())]) + "\n"
