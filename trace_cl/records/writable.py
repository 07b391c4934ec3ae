"""Whether a run can be written where it is to lie: asked before anything is loaded."""

import os
from pathlib import Path

from trace_cl.errors import UserError

FOLDERS = ("answers", "checkpoint", "failures", "halfway", "predictions", "prompts", "rounds")
FILES = (
    *("config.yaml", "data.sha256", "environment.json", "matrix.csv", "report.md", "summary.json", "train.jsonl"),
    *("manifest.json", ".lock"),
)
"""What lies in a run's directory. Of what is not named here a run only writes, and never reads."""

ROOM = 256
"""Bytes of a path that are left to the files below a run's directory."""


def check_writable(folder: Path) -> None:
    """Raise UserError where no run could be written into this directory."""
    if reason := _why_not(folder.absolute()):
        raise UserError(f"{reason}: set runs_dir to another folder")


def _why_not(folder: Path) -> str | None:
    # What is there of the path, a link that leads nowhere included.
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir():
        return f"{there} is {'a file' if there.exists() else 'a link that leads nowhere'}, and no folder"
    if max(len(os.fsencode(name)) for name in folder.parts) > os.pathconf(there, "PC_NAME_MAX"):
        return f"{folder} has a longer name in it than the file system takes"
    if len(os.fsencode(folder)) + ROOM > os.pathconf(there, "PC_PATH_MAX"):
        return f"{folder} is a longer path than the system takes"
    # Where a run lies already it may be complete, and only to be shown.
    if there != folder and not os.access(there, os.W_OK | os.X_OK):
        return f"{there} cannot be written to"
    for name in (*FILES, *FOLDERS):
        path = folder / name
        if path.exists() and path.is_dir() != (name in FOLDERS):
            return f"{path} is {'a folder, and no file' if path.is_dir() else 'a file, and no folder'}"
    return None
