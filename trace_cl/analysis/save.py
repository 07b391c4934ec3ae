"""Where pages and pictures go: a place of the user's own choice."""

from pathlib import Path

from trace_cl.errors import UserError
from trace_cl.records.files import put


def save(path: Path, content: str | bytes) -> None:
    """Write the file. Raises UserError where its place cannot hold it."""
    try:
        put(path, content)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{path} cannot be written ({reason}): give --out another place") from error
