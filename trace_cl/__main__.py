"""The command: `python -m trace_cl [key=value …]`.

Hydra composes the configuration; what a user did wrong is said in one sentence on stderr, with exit code 2.
"""

import os
import re
import sys
import traceback

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from trace_cl.config import CONF_DIR, as_dict
from trace_cl.errors import UserError, nearest
from trace_cl.records.files import flatten


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
def hydra_main(config: DictConfig) -> None:
    """One composed configuration, one run."""
    from trace_cl.launch import sweep
    from trace_cl.launch.processes import RankFailed, launch

    if HydraConfig.get().mode == RunMode.MULTIRUN:
        sweep.member(launch, config)
        return
    try:
        launch(config)
    except RankFailed as error:
        print(
            f"{error}\nerror: the run was ended; the same command goes on after the last finished round",
            file=sys.stderr,
        )
        sys.exit(1)
    except UserError as error:
        # Not left to Hydra, which would print a page of its own before it.
        sys.exit(refuse(str(error)))


def refuse(sentence: str) -> int:
    """Say what is wrong; give the exit code."""
    print(f"error: {sentence}", file=sys.stderr)
    return 2


def groups() -> dict[str, list[str]]:
    """Every group of `conf/` and its choices."""
    folders = [folder for folder in sorted(CONF_DIR.iterdir()) if folder.is_dir() and folder.name != "__pycache__"]
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}


def explain(error: Exception, arguments: list[str]) -> str:
    """A refusal of Hydra's or OmegaConf's as one sentence with the nearest valid names."""
    text = " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not understood as key=value ({text.partition(' See https')[0]})"
    for argument in arguments:
        group, _, choice = argument.lstrip("+~").partition("=")
        choices = groups().get(group, [])
        for name in choice.split(","):
            if choices and name not in choices and name in text:
                return f"{group}={name}: no such choice; nearest: {nearest(name, choices)}"
    if match := re.search(r"Could not find 'hydra/launcher/(\w+)'", text):
        return (
            f"hydra/launcher={match[1]}: no such launcher is installed; "
            "joblib, submitit_local and submitit_slurm come with pip install '.[sweep]'"
        )
    if match := re.search(r"Could not override '([^']+)'", text):
        return f"{match[1]}: no such key; nearest: {nearest(match[1], known_keys())}"
    if match := re.search(r"Error merging override (\S+?)=", text):
        return f"{match[1]}: {str(error.__cause__).splitlines()[0]}"
    return text


def known_keys() -> list[str]:
    """Every key that the default choices of all groups offer, and the groups themselves."""
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        composed = as_dict(hydra.compose("config"))
    return [*(key for key, _ in flatten(composed)), *groups()]


def main() -> int:
    """Run the command; give its exit code."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let errors through to here, instead of Hydra's own page of text
    crashed = 0
    try:
        hydra_main()
    except (HydraException, OmegaConfBaseException) as error:
        return refuse(explain(error, sys.argv[1:]))
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on after the last finished round", file=sys.stderr)
        return 130
    except Exception:
        # In a sweep it is the launcher's own, as joblib's when one of its workers is killed.
        traceback.print_exc()
        crashed = 1
    from trace_cl.launch.sweep import conclude

    return conclude() or crashed


if __name__ == "__main__":
    sys.exit(main())
