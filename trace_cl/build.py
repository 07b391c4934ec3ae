"""From values to things: the strategy and the logger that a configuration names."""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import isclass, signature
from typing import Any, cast

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trace_cl.config import as_dict, schema_defaults
from trace_cl.errors import UserError, nearest
from trace_cl.names import look_up
from trace_cl.records.files import flatten
from trace_cl.records.loggers import Logger
from trace_cl.strategies.base import Strategy
from trace_cl.strategies.hft import HalfFineTuning
from trace_cl.strategies.selection import Selection


def build_strategy(config: DictConfig) -> Strategy:
    """The strategy that `strategy._target_` names, made of the other values there, wrapped in HFT where `hft=true`.

    Raises UserError naming the key for a value the strategy has no use for.
    """
    with _naming("strategy"):
        strategy: Strategy = _build("strategy", config.strategy, Strategy)
        if config.hft:
            # Of its class it is none, but it has every name that a strategy has.
            return cast(Strategy, HalfFineTuning(strategy, Selection(**config.selection)))
        Selection(**config.selection)
        return strategy


def build_logger(config: DictConfig) -> Logger:
    """The logger that `logger._target_` names.

    Raises UserError for a package that is missing, and for a value the logger has no use for.
    """
    with _naming("logger"):
        logger: Logger = _build("logger", config.logger, Logger)
        return logger


def defaults(config: DictConfig) -> dict[str, Any]:
    """What each key is where nobody says: by the schema, and by the strategy's own arguments. Keys are dotted."""
    own = _defaults(look_up("strategy._target_", config.strategy._target_))
    return schema_defaults() | {f"strategy.{key}": value for key, value in flatten(own) if value != MISSING}


def _defaults(kind: Any) -> dict[str, Any]:
    if _is_dataclass(kind):
        return as_dict(OmegaConf.structured(kind), resolve=False)
    return {a.name: a.default for a in signature(kind).parameters.values() if a.default is not a.empty}


def _build(name: str, section: DictConfig, like: type) -> Any:
    """What `_target_` names, made of the other values; a dataclass makes each of its field's type.

    It must be a class with the methods of `like`, of which it need not be derived.
    """
    values = as_dict(section)
    target = values.pop("_target_")
    kind = look_up(f"{name}._target_", target)
    if lacking := [method for method in _methods(like) if not callable(getattr(kind, method, None))]:
        raise UserError(f"{name}._target_={target} is no class of a {name}: it has no {', '.join(lacking[:3])}")
    if not isclass(kind):
        raise UserError(f"{name}._target_={target} is no class: name the class that it is made of")
    every = signature(kind).parameters.values()
    named = [argument for argument in every if argument.kind not in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD)]
    known = [argument.name for argument in named]
    for key in values:
        if key not in known and not any(argument.kind is argument.VAR_KEYWORD for argument in every):
            others = f"nearest: {nearest(key, known)}" if known else "it takes none at all"
            raise UserError(f"{name}.{key}: {kind.__name__} takes no such value; {others}")
    for argument in named:
        if argument.default is argument.empty and argument.name not in values:
            raise UserError(f"{name}.{argument.name} is not set: {kind.__name__} needs it")
    if _is_dataclass(kind):
        typed = OmegaConf.merge(OmegaConf.structured(kind), values)
        assert isinstance(typed, DictConfig)
        values = as_dict(typed)
    return kind(**values)


def _methods(kind: type) -> list[str]:
    return [name for name, value in vars(kind).items() if callable(value) and not name.startswith("_")]


def _is_dataclass(kind: Any) -> bool:
    """Whether it is one itself: what is only derived from one may have an `__init__` of its own."""
    return "__dataclass_fields__" in vars(kind)


@contextmanager
def _naming(section: str) -> Iterator[None]:
    """Turn what is wrong with a value into a UserError that names its key."""
    try:
        yield
    except (OmegaConfBaseException, ValueError) as error:
        key = getattr(error, "full_key", None)
        raise UserError(f"{section}.{key}: {_first_line(error)}" if key else _first_line(error)) from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
