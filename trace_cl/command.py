"""The command itself (`trace_cl/__main__.py` is its door).

Hydra composes the configuration; what a user did wrong is said in one sentence on stderr, with exit code 2. Whatever
needs PyTorch is imported once there is something to run.
"""

import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from textwrap import wrap

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from trace_cl.choices import check_groups, defaults, explain, groups
from trace_cl.config import CONF_DIR, check
from trace_cl.doors import unread
from trace_cl.errors import UserError
from trace_cl.signals import Stopped

HELP = """\
trace-cl trains one language model on task after task, and measures what it learns and what it forgets.

  trace-cl [key=value …]               one run; the same command again goes on where it stopped
  trace-cl -m key=value,value …        a run for each combination of values
  trace-cl dry_run=true [key=value …]  what a run would do and need; calibrate=true: how long it would take

Choices (* where nothing is said):
{choices}

Keys used most:
  hft=true             half fine-tuning, around any strategy
  seed=1               of everything that is drawn
  runs_dir=DIR         where runs are kept: DIR/<benchmark>/<model>/<method>/seed<k>  (runs)
  model.path=DIR       a local copy of the model
  benchmark.root=DIR   the folder that holds a folder a task

Examples:
  trace-cl strategy=gem hft=true
  trace-cl model=llama2-chat-7b benchmark.root=DIR
  trace-cl -m strategy=seqft,gem,replay hft=true,false seed=1,2,3
  trace-cl --config-dir conf strategy=mine      (conf/strategy/mine.yaml and mine.py in this folder)

All keys: --cfg job; Hydra's own flags: --hydra-help. What each key means: docs/keys.md; your own: docs/extend.md
"""

SHOWN = ("strategy", "benchmark", "model", "selection", "engine", "logger")
"""The groups of the help, in its order; `experiment` holds the paper's tables, too many for a screen."""


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
def hydra_main(config: DictConfig) -> None:
    """One composed configuration, one run."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from trace_cl.launch import sweep
        from trace_cl.launch.processes import launch

        sweep.member(launch, config)
        return
    try:
        check(config)
        from trace_cl.launch.processes import RankFailed, launch

        try:
            launch(config)
        except RankFailed as error:
            print(
                f"{error}\nerror: the run was ended; the same command goes on with what it had put by",
                file=sys.stderr,
            )
            sys.exit(1)
    except UserError as error:
        # Not left to Hydra, which would print a page of its own before it.
        sys.exit(refuse(str(error)))
    except BrokenPipeError:
        sys.exit(unread())  # of which Hydra, too, would have something to say


def refuse(sentence: str) -> int:
    """Say what is wrong; give the exit code."""
    print(f"error: {sentence}", file=sys.stderr)
    return 2


def own_folder(arguments: Sequence[str]) -> Path | None:
    """What `--config-dir` (`-cd`) says."""
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        flag, _, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            return Path(value or following)
    return None


def show_help(own: Path | None) -> None:
    """One screen of what a user would type."""
    known = groups(own)
    default = defaults()
    lines = []
    for group in SHOWN:
        names = [f"{name}*" if name == default[group] else name for name in known[group]]
        lines += wrap(", ".join(names), 100, initial_indent=f"  {group + '=':<12}", subsequent_indent=" " * 14)
    lines.append(f"  {'experiment=':<12}{known['experiment'][0]} … {known['experiment'][-1]}: the paper's tables")
    print(HELP.format(choices="\n".join(lines)), end="")


def main() -> int:
    """Run the command; give its exit code."""
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        show_help(own_folder(arguments))
        return 0
    if "--version" in arguments:
        print(f"trace-cl {version('trace-cl')}")
        return 0
    if os.getcwd() not in map(os.path.abspath, sys.path):
        sys.path.insert(0, os.getcwd())  # modules of one's own lie here, for the console script as for python -m
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let errors through to here, instead of Hydra's own page of text
    crashed = 0
    try:
        check_groups(arguments, own_folder(arguments))
        hydra_main()
    except UserError as error:
        return refuse(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        return refuse(explain(error, arguments, own_folder(arguments)))
    except Stopped as stopped:
        from trace_cl.training.ranks import first_here

        if first_here():
            command = f"python -m trace_cl {shlex.join(arguments)}".strip()
            print(f"\nstopped by {stopped}; everything is kept, and this goes on with it: {command}", file=sys.stderr)
        return stopped.code
    except BrokenPipeError:
        raise  # nobody reads on, which is no failure
    except Exception:
        # In a sweep it is the launcher's own, as joblib's when one of its workers is killed.
        traceback.print_exc()
        crashed = 1
    from trace_cl.launch.sweep import conclude

    return conclude() or crashed
