"""From values to things: the strategy and the logger that a configuration names."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trace_cl.config import as_dict
from trace_cl.errors import UserError
from trace_cl.records.loggers import Logger
from trace_cl.strategies.base import Strategy
from trace_cl.strategies.hft import HalfFineTuning
from trace_cl.strategies.selection import Selection


def build_strategy(config: DictConfig) -> Strategy:
    """The strategy that `strategy._target_` names, made of the other values there, wrapped in HFT where `hft=true`.

    Raises UserError naming the key for a value the strategy has no use for.
    """
    with _naming("strategy"):
        strategy: Strategy = _build(config.strategy)
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
        logger: Logger = _build(config.logger)
        return logger


def _build(section: DictConfig) -> Any:
    """What `_target_` names, made of the other values, each of the type its field has."""
    values = as_dict(section)
    kind = get_object(values.pop("_target_"))
    typed = OmegaConf.merge(OmegaConf.structured(kind), values)
    assert isinstance(typed, DictConfig)
    return kind(**as_dict(typed))


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
