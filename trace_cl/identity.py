"""Where a run lies: `<runs_dir>/<benchmark>/<model>/<method>/seed<k>`.

`<benchmark>/<model>/<method>` is the place of one experiment at its own setting: what the files of its choices in
`conf/` say. A run under another setting that changes results is another experiment, and its method's name says so
(`replay-ratio1-lr0.1`); where that would be long, or not exact, it ends in a digest of what differs. Both follow from
the settings' values alone, so that whoever starts the run, and however it was written, finds the same place.

Reading needs no PyTorch.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trace_cl.config import CONF_DIR, Config, as_dict, order_name, schema_defaults
from trace_cl.errors import UserError
from trace_cl.paths import check_name
from trace_cl.records.files import flatten, is_free

SEED, ORDER = "seed", "benchmark.order"

BESIDE = ("evaluation.tasks", "evaluation.zero_shot", "model.architecture")
"""Settings that add to a run, or serve its plan alone: the matrix does not depend on them."""

SAID = ("hft", "selection", "benchmark.name", "model.name", SEED)
"""Settings that the place says already."""

COPY = "model.path"
"""A local copy of the model: the place trusts that it is one, but runs of different copies are not averaged."""

DEFINITION = {
    "benchmark": (
        *("benchmark.tasks", "benchmark.orders", "benchmark.instructions", "training.global_batch"),
        *("benchmark.template", "benchmark.answer"),
    ),
    "model": ("model",),
}
"""What makes a benchmark or a model of one's own: it has no file in `conf/` that it could differ from."""

RATES = ("learning_rate", "adapter_learning_rate")
"""A model's that have no default, of which `training.learning_rate` is one."""

SUITED = (*RATES, "prompt_learning_rate", "adapter_targets")
"""What suits a model, and the settings of training and of adapters are taken from."""

SHORT = {"training.learning_rate": "lr", "strategy._target_": "target", "benchmark.epochs": "task_epochs"}
"""What some keys are called in a folder's name, which leaves the last part of theirs to others."""

LONGEST, SPELLED = 66, 48
"""Characters of a strategy's name, and of what differs, beyond which it is cut: with the digest 100 at most."""


def run_folder(config: DictConfig, method: str) -> Path:
    """The directory of a run; `method` is its strategy's name.

    Raises UserError where the strategy's name cannot be a folder's.
    """
    from trace_cl.build import defaults  # which loads PyTorch

    settings = dict(flatten(as_dict(config)))
    arguments = {key: value for key, value in defaults(config).items() if key.startswith("strategy.")}
    name = method_name(method, settings, own_settings(settings, method, arguments))
    return Path(config.runs_dir, config.benchmark.name, config.model.name, name, f"seed{config.seed}")


def own_settings(
    settings: Mapping[str, Any], method: str, arguments: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A run's settings as they are where nobody overrides anything, with dotted keys.

    Of a strategy, benchmark or model of one's own the schema's defaults stand in for a file in `conf/`, with the order
    of its tasks, and for a strategy's values its class's `arguments`; where these are not given, the values themselves.
    """
    names = {
        "strategy": method.partition("+")[0],
        "benchmark": str(settings.get("benchmark.name")),
        "model": str(settings.get("model.name")),
    }
    known = {group for group, name in names.items() if _choice(group, name) is not None}
    said = {key: settings[f"model.{key}"] for key in SUITED if "model" not in known and f"model.{key}" in settings}
    own = dict(_composed(*names.values(), json.dumps(said)))
    if "strategy" not in known:
        own |= {key: value for key, value in settings.items() if _within(key, ("strategy",))}
        own |= arguments or {}
    for group in DEFINITION.keys() - known:
        own |= {key: value for key, value in settings.items() if _within(key, DEFINITION[group])}
    if "benchmark" not in known:
        own[ORDER] = _tasks(settings)
    return own


def differences(settings: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that make another experiment than its own setting: key and value, in one order."""
    keys = (key for key in settings if _decides(key) and not _within(key, (*SAID, COPY)))
    return {key: settings[key] for key in sorted(keys, key=_rank) if _same(key, settings) != _same(key, own)}


def experiment(settings: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """All that the numbers depend on but the seed: what runs must share to be averaged."""
    every = {**own, **settings}
    return {
        key: _same(key, every)
        for key in every
        if _decides(key)
        and key != SEED
        and (every.get("hft") or not _within(key, ("selection",)))
        # A task of a run from before a key of tasks was there does not have it.
        and (every[key] is not None or not _within(key, ("benchmark.tasks",)))
    }


def method_name(method: str, settings: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """The method with what differs from its own setting, spelled out where that is short; else with a digest of it.

    Letters, digits and `._+=-` alone, 100 characters at most. Raises UserError for a strategy's name that does not fit.
    """
    check_name("strategy", method)
    if re.search(r"[^\w.+=-]", method, re.ASCII) or len(method) > LONGEST:
        raise UserError(
            f"strategy: a method named {method} cannot be the folder of its runs; name the class with letters, digits, "
            f". _ + = and - alone, {LONGEST} at most"
        )
    room = min(SPELLED, 90 - len(method))
    different = differences(settings, own)
    parts: list[str] = []
    whole = True
    for key, value in different.items():
        text, exact = _spelled(key, value, own)
        whole &= exact
        for part in (text, _short(key)):
            if len("-".join([*parts, part])) <= room:
                parts.append(re.sub(r"[^\w.+=-]", "_", part, flags=re.ASCII))
                break
        if part != text:
            whole = False
            break
    return "-".join([method, *parts, *([] if whole else [_digest(different)])])


@cache
def _composed(strategy: str, benchmark: str, model: str, suited: str) -> dict[str, Any]:
    """What the files of these choices say, with dotted keys; one that has no file says nothing, and what suits a model
    of one's own is given, as JSON."""
    choices = (_choice("strategy", strategy), _choice("benchmark", benchmark), _choice("model", model))
    files = [choice for choice in choices if choice is not None]
    said = json.loads(suited)
    given = {"model": said | {rate: said.get(rate) or 0.0 for rate in RATES}}
    merged = OmegaConf.merge(OmegaConf.structured(Config), given, *files)
    assert isinstance(merged, DictConfig)
    return schema_defaults() | dict(flatten(as_dict(merged)))


@cache
def _choice(group: str, name: str) -> DictConfig | None:
    """The file of a choice in `conf/`, as a part of the whole configuration; None where there is none."""
    # By the list of files: what a strategy or benchmark of one's own is called may be no file's name at all.
    if f"{name}.yaml" not in os.listdir(CONF_DIR / group):
        return None
    text = (CONF_DIR / group / f"{name}.yaml").read_text(encoding="utf-8")
    content = OmegaConf.create(text)
    assert isinstance(content, DictConfig)
    content.pop("defaults", None)
    return content if text.startswith("# @package _global_") else OmegaConf.create({group: content})


def _within(key: str, groups: tuple[str, ...]) -> bool:
    return any(f"{key}.".startswith(f"{group}.") for group in groups)


def _decides(key: str) -> bool:
    """Whether results may depend on the setting."""
    return not is_free(key) and not _within(key, BESIDE)


def _same(key: str, settings: Mapping[str, Any]) -> Any:
    """A setting's value; of devices those that compute alike are one."""
    value = settings.get(key)
    return "cpu" if key == "device" and value == "cpu" else "auto" if key == "device" else value


def _tasks(settings: Mapping[str, Any]) -> list[str]:
    """The tasks of which `benchmark.tasks.<task>.<setting>` speaks."""
    prefix = "benchmark.tasks."
    return list(dict.fromkeys(key[len(prefix) :].rpartition(".")[0] for key in settings if key.startswith(prefix)))


@cache
def _keys() -> dict[str, int]:
    """Every key of the schema, and its number."""
    number = count()
    names = [
        [f"{section.name}.{key.name}" for key in fields(section.type)] if is_dataclass(section.type) else [section.name]
        for section in fields(Config)
    ]
    return {key: next(number) for section in names for key in section}


def _rank(key: str) -> tuple[int, str]:
    """The schema's order; within a key that holds several, by name."""
    return next((number for known, number in _keys().items() if _within(key, (known,))), len(_keys())), key


@cache
def _short(key: str) -> str:
    """The last part of a key where no other of the schema ends in it, else the whole."""
    *_, last = key.rsplit(".", 1)
    others = [known for known in _keys().keys() - {key} - SHORT.keys() if known.rpartition(".")[2] == last]
    deep = key.count(".") > 1
    return SHORT.get(key, key.removeprefix("benchmark.tasks.") if deep else key if others else last)


def _spelled(key: str, value: Any, own: Mapping[str, Any]) -> tuple[str, bool]:
    """Key and value in a folder's name, and whether no other key and value are spelled so."""
    short = _short(key)
    if key == ORDER and (name := _name_of_order(value, own)) is not None:
        return short + ("" if name[0].isdigit() else "_") + name, True
    text, exact = _text(value)
    exact &= key in own and not re.search(r"[^\w.]|\d$", short, re.ASCII)
    exact &= not isinstance(value, str | list) or isinstance(value, list) == isinstance(own.get(key), list)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return short + ("" if number else "_") + text, exact


def _name_of_order(order: Any, own: Mapping[str, Any]) -> str | None:
    if not isinstance(order, list) or not all(isinstance(task, str) for task in order):
        return None
    prefix = "benchmark.orders."
    orders = {key.removeprefix(prefix): value for key, value in own.items() if key.startswith(prefix)}
    return order_name(order, orders, _tasks(own))


def order_in_words(order: Sequence[str], own: Mapping[str, Any]) -> str:
    """The name of an order of a benchmark's tasks; of one that has none the digest that its runs' place bears."""
    tasks = list(order)
    return _name_of_order(tasks, own) or _digest({ORDER: tasks})


def _text(value: Any) -> tuple[str, bool]:
    """A value in a folder's name, and whether no other value is spelled so."""
    if value is None or isinstance(value, bool):
        return json.dumps(value), True
    if isinstance(value, int | float):
        return _number(value), True
    if isinstance(value, list):
        items = [_text(item) for item in value]
        exact = bool(items) and all(exact and "+" not in text for text, exact in items)
        exact &= not any(item is None or isinstance(item, bool | list) for item in value)
        return "+".join(text for text, _ in items), exact
    text = str(value)
    plain = isinstance(value, str) and re.fullmatch(r"[\w.]+", text, re.ASCII) and text not in ("true", "false", "null")
    return text, bool(plain) and not _is_number(text)


def _number(value: float) -> str:
    """A number as briefly as it can be said without losing a digit: 1, 0.1, 1e-5."""
    text = repr(int(value)) if value == value and abs(value) < 1e15 and value == int(value) else repr(value)
    return re.sub(r"e([+-])0*", r"e\1", text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _digest(different: Mapping[str, Any]) -> str:
    """Eight hex digits of keys and values."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    content = json.dumps({key: plain(value) for key, value in different.items()}, sort_keys=True, default=str)
    return sha256(content.encode()).hexdigest()[:8]
