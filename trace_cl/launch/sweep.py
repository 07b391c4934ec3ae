"""A sweep: the runs that one command asks for (`python -m trace_cl -m …`), one after another or side by side.

A member that fails does not raise, because Hydra would end the sweep with it; and as it may live in another process, or
on another machine, it writes down what became of it. When all are done the sweep's own process reads that, and says it.
"""

import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from trace_cl.config import check, only_planned
from trace_cl.errors import UserError
from trace_cl.records.files import as_json, write
from trace_cl.records.writable import check_writable
from trace_cl.signals import Stopped

# Hydra imports this module for every command: what needs PyTorch, or much time, is imported when a member runs.


@dataclass(frozen=True)
class Outcome:
    """What became of a member.

    `command` are the arguments that start it alone; `state` is finished, complete (before the sweep), skipped, refused
    (bad input), failed or stopped (and the sweep with it), and `reason` says why; `folder` is the directory of a
    finished run.
    """

    command: str
    state: str
    reason: str = ""
    folder: str = ""


class Sweep(Callback):
    """Hydra's hook (conf/config.yaml) in the process that a sweep is started from."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Settle the sweep's folder for all members, and remember the sweep for `conclude`."""
        # Slurm's warning that the time is nearly up (`signal_delay_s`): submitit's own choice is USR2.
        os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", "USR1")
        try:
            check_writable(Path(config.runs_dir))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from error  # any other exception Hydra would take for a warning
        folder = config.hydra.sweep.dir
        with open_dict(config):
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{folder}'")
        HydraConfig.instance().set_config(config)
        if _side_by_side(config.hydra):
            print(f"what each member prints goes to {folder}/<number>/log.txt", file=sys.stderr)


def member(run: Callable[[DictConfig], None], config: DictConfig) -> None:
    """Run one member of a sweep, unless it is complete, and write down its outcome.

    Where members run side by side, what each prints goes to its log.txt.
    """
    from trace_cl.training.ranks import first_here

    if not first_here():  # one of the many processes of a run over many nodes
        run(config)
        return
    hydra = HydraConfig.get()
    folder, command = Path(hydra.runtime.output_dir), shlex.join(hydra.overrides.task)

    def record(outcome: Outcome) -> None:
        write(folder / "outcome.json", as_json(asdict(outcome)))

    print(f"\n#{hydra.job.num} {command}", file=sys.stderr, flush=True)
    record(Outcome(command, "failed", "its process ended without a word: killed, or out of memory"))
    with ExitStack() as stack:
        if _side_by_side(hydra):
            log = stack.enter_context((folder / "log.txt").open("w", encoding="utf-8", buffering=1))
            stack.enter_context(redirect_stdout(log))
            stack.enter_context(redirect_stderr(log))
        try:
            outcome = _outcome(run, config, command, folder)
        except Stopped as stopped:
            record(Outcome(command, "stopped", f"by {stopped}; it goes on where it was"))
            raise
    record(outcome)
    print(f"#{hydra.job.num} {outcome.state}{outcome.reason and f': {outcome.reason}'}", file=sys.stderr, flush=True)


def _side_by_side(hydra: HydraConf) -> bool:
    return bool(hydra.runtime.choices["hydra/launcher"] != "basic")


def _outcome(run: Callable[[DictConfig], None], config: DictConfig, command: str, folder: Path) -> Outcome:
    from trace_cl.build import build_strategy
    from trace_cl.run import find_journal
    from trace_cl.strategies.hft import Incompatible

    try:
        check(config)
        journal = find_journal(config, build_strategy(config))
        if journal.complete() and not only_planned(config):
            return Outcome(command, "complete", folder=str(journal.folder))
        run(config)
        return Outcome(command, "finished", folder=str(journal.folder))
    except UserError as error:
        return Outcome(command, "skipped" if isinstance(error.__cause__, Incompatible) else "refused", str(error))
    except Exception as error:
        path = folder / "error.txt"
        write(path, traceback.format_exc())
        last_line = traceback.format_exception_only(error)[-1].strip().splitlines()[-1]
        return Outcome(command, "failed", f"{last_line} ({path})")


def conclude() -> int:
    """Say what came of the sweep: a table of the finished members, then the others, each with its reason.

    Gives the exit code: 0 where no member failed, or there was no sweep; 2 where all that failed was bad input; else 1.
    """
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return 0
    paths = sorted(Path(HydraConfig.get().sweep.dir).glob("*/outcome.json"), key=lambda path: int(path.parent.name))
    outcomes = [Outcome(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    states = {outcome.state for outcome in outcomes}
    try:
        for table in _tables([Path(outcome.folder) for outcome in outcomes if outcome.folder]):
            print(f"\n{table}\n")
    except UserError as error:
        states.add("refused")
        print(f"error: {error}", file=sys.stderr)
    for state in ("skipped", "refused", "failed"):
        if those := [outcome for outcome in outcomes if outcome.state == state]:
            print(f"\n{state}, {len(those)} of {len(outcomes)}:", file=sys.stderr)
            for outcome in those:
                print(f"  python -m trace_cl {outcome.command}\n    {outcome.reason}", file=sys.stderr)
    return 1 if "failed" in states else 2 if "refused" in states else 0


def _tables(folders: Sequence[Path]) -> list[str]:
    """The results of the runs in these directories: a table for each model on each benchmark."""
    from trace_cl.analysis import summary as results

    tables = []
    for model, runs in groupby(sorted(set(folders)), key=lambda folder: folder.parents[1]):
        methods, _ = results.collect(runs)
        if methods:
            tables.append(f"**{model}**\n\n{results.render(results.tabulate(methods))}")
    return tables
