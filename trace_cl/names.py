"""Dotted names, by which a configuration speaks of classes and functions: what they stand for, and stood for once."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from trace_cl.errors import UserError, nearest


def current_name(target: str) -> str:
    """The dotted name that has come in the place of one which an earlier version wrote into a run's config.yaml."""
    target = re.sub(r"^strategies\.(seqft|gem|replay|lora_seqft)\.", r"trace_cl.strategies.\1.", target)
    return re.sub(r"^trace_cl\.loggers\.", "trace_cl.records.loggers.", target)


def look_up(key: str, target: str) -> Any:
    """What a dotted name, the value of this key, stands for. Raises UserError where there is no such thing.

    What goes wrong inside a module of the user's own while it is imported is left as it is, with its traceback.
    """
    if not re.fullmatch(r"\w+(\.\w+)+", target):
        name = target.rpartition(".")[2] or "Name"
        raise UserError(f"{key}={target} is no dotted name: write module.name, as in mine.{name}")
    module, _, name = current_name(target).rpartition(".")
    try:
        content = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"{key}={target}: there is no module {error.name}, in {Path.cwd()} or installed") from error
    if not hasattr(content, name):
        raise UserError(f"{key}={target}: {module} has no {name}; nearest: {nearest(name, vars(content))}")
    return getattr(content, name)
