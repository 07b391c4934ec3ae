"""Seals: what going on stands on says itself what it is, to the byte, so that what is torn or altered is noticed."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trace_cl.errors import UserError
from trace_cl.records.files import as_json, read_json, whole

SEAL = "round.json"
"""The file of a checkpoint that says what it holds."""


def opened(folder: Path) -> dict[str, Any]:
    """What a checkpoint's seal says. Raises UserError naming the first file that is not what was written."""
    about = unsealed(folder / SEAL)
    found = whole(folder, lambda: checksums(folder))
    for name in sorted(found.keys() | about["files"].keys()):
        if found.get(name) != about["files"].get(name):
            state = "is missing" if name not in found else "is not what the run wrote"
            raise UserError(f"{folder / name} {state}")
    return about


def checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file in a folder but the seal itself (`SEAL`), by relative path."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL):
        with path.open("rb") as file:
            found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def sealed(content: Mapping[str, Any]) -> str:
    """An object as JSON that also holds its own checksum."""
    return as_json({"sha256": _digest(content), **content})


def unsealed(path: Path) -> dict[str, Any]:
    """What `sealed` made the file of. Raises UserError naming the file where it has been torn or altered."""
    content = read_json(path)
    if content.pop("sha256", None) != _digest(content):
        raise UserError(f"{path} is not what the run wrote: move the run away")
    return content


def _digest(content: Mapping[str, Any]) -> str:
    # As it will be read: JSON knows no keys but texts, and sorts them as such.
    read = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()
