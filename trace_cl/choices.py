"""What can be chosen on a command line: the groups and their choices, and what is nearest to a word that is none."""

import re
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trace_cl.config import CONF_DIR
from trace_cl.errors import UserError, nearest


def check_groups(arguments: Sequence[str], own: Path | None = None) -> None:
    """Raise UserError for a group whose choice is no word, and a value without a key: Hydra has no word for them."""
    known = groups(own)
    for argument in arguments:
        group, equals, choice = argument.partition("=")
        if equals and not group:
            raise UserError(f"{argument}: not understood as key=value (there is no key)")
        if group in known and re.fullmatch(r"null|true|false|[\d.]+", choice, re.IGNORECASE):
            raise UserError(f"{group}={choice}: no such choice; nearest: {nearest(choice, known[group])}")


def compose(overrides: Sequence[str] = (), own: Path | None = None) -> DictConfig:
    """The configuration that a command line with these overrides makes; `own` is a folder with groups of one's own.

    Raises UserError for what is no key, no choice or no value.
    """
    check_groups(overrides, own)
    found = [f"hydra.searchpath=['file://{own.absolute()}']"] if own else []
    try:
        with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            return hydra.compose("config", [*overrides, *found])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, overrides, own)) from error


def groups(own: Path | None = None) -> dict[str, list[str]]:
    """Every group of `conf/`, and of a folder of one's own, and its choices."""
    found: dict[str, set[str]] = {}
    for file in (file for folder in (CONF_DIR, own) if folder for file in folder.glob("*/*.yaml")):
        found.setdefault(file.parent.name, set()).add(file.stem)
    return {group: sorted(found[group]) for group in sorted(found)}


def defaults() -> dict[str, str]:
    """The choice of each group where nothing is said."""
    entries = OmegaConf.load(CONF_DIR / "config.yaml").defaults
    return {str(group): entry[group] for entry in entries if isinstance(entry, DictConfig) for group in entry}


def explain(error: Exception, arguments: Sequence[str], own: Path | None = None) -> str:
    """A refusal of Hydra's or OmegaConf's as one sentence with the nearest valid names."""
    text = " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not understood as key=value ({text.partition(' See https')[0]})"
    known = groups(own)
    for argument in arguments:
        group, _, choice = argument.lstrip("+~").partition("=")
        choices = known.get(group, [])
        for name in choice.split(","):
            if choices and name not in choices and name in text:
                return f"{group}={name}: no such choice; nearest: {nearest(name, choices)}"
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{match[1]}: several values are a sweep's; add -m, or put the value in quotes"
    if match := re.search(r"Could not find 'hydra/launcher/(\w+)'", text):
        return (
            f"hydra/launcher={match[1]}: no such launcher is installed; "
            "joblib, submitit_local and submitit_slurm come with pip install '.[sweep]'"
        )
    if match := re.search(r"Could not override '([^']+)'", text):
        return f"{match[1]}: no such key; nearest: {nearest(match[1], known_keys(arguments, own))}"
    if match := re.search(r"Error merging override (\S+?)=", text):
        reason = str(error.__cause__).splitlines()[0]
        return f"{match[1]}=null: it must have a value" if "is not Optional" in reason else f"{match[1]}: {reason}"
    return text


def known_keys(arguments: Sequence[str] = (), own: Path | None = None) -> list[str]:
    """Every key that the choices among these arguments offer, and the groups themselves."""
    known = groups(own)
    chosen = [argument.partition(",")[0] for argument in arguments if argument.partition("=")[0] in known]
    return [*_dotted(compose(chosen, own)), *known]


def _dotted(config: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key in map(str, config):
        # A reference may lead to what is not set: it is a key all the same.
        section = None if OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, key) else config[key]
        keys += _dotted(section, f"{prefix}{key}.") if isinstance(section, DictConfig) else [f"{prefix}{key}"]
    return keys
