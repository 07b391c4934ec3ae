"""A run that starts in no time, is killed at any moment or fails at any write, and is compared with one that was left
alone.

Each is a process of its own, forked from a server that has everything imported (that takes six seconds, a run two).
"""

import ctypes
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

CLOCKS = {"seconds", "evaluation_seconds", "sha256"}
"""What two runs of one configuration do not share: times, and a file's checksum of itself, times included."""

KILLS = int(os.environ.get("KILLS", 100))
"""How often everything is tried: 100 times, every call, or with less that part of it."""

OF_ITS_OWN = {"config.yaml", "environment.json", "report.md", ".lock"}
"""Files that name their place, their machine or a clock."""

OF_THE_RUN = r"^data: |^round \d+ \(|\|.*\| +\d+%| \(auto\)$"

PATIENCE = 180
"""Seconds after which a run that has not ended is taken to hang."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong at the call number `at` that writes, syncs, renames or makes a folder (0: nothing does); by which
    error number, or where that is 0 by kill -9 in the middle of it."""

    at: int = 0
    error: int = 0


@dataclass
class Started:
    """The processes of a run, one a rank, and what they say."""

    processes: list[ForkServerProcess]
    said: list[Path]

    def wait(self, seconds: float = PATIENCE) -> bool:
        """Whether it has ended by then."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0, end - time.monotonic()))
        return all(process.exitcode is not None for process in self.processes)

    def send(self, number: int) -> None:
        """A signal to every rank."""
        for process in self.processes:
            if process.exitcode is None and process.pid:
                os.kill(process.pid, number)

    def ready_for(self, number: int) -> bool:
        """Whether every rank has come to where it has its own way with this signal; not, where one has ended."""
        for process in self.processes:
            while not handles(process.pid, number):
                if process.exitcode is not None:
                    return False
                time.sleep(0.002)
        return True

    def wait_for_step(self, number: int) -> None:
        """Until so many optimizer steps are made, or it has ended."""
        while self.processes[0].exitcode is None and trained(self) < number:
            time.sleep(0.002)

    def kill(self, after: float = PATIENCE) -> bool:
        """Kill -9 every rank after so many seconds, or as soon as the first has ended; whether that was by it."""
        self.processes[0].join(after)
        self.send(signal.SIGKILL)
        assert self.wait(), "a process outlives kill -9"
        return self.processes[0].exitcode == -signal.SIGKILL

    @property
    def codes(self) -> set[int | None]:
        """The exit codes; None for a rank that has not ended."""
        return {process.exitcode for process in self.processes}

    @property
    def sentences(self) -> list[str]:
        """What stands on stderr, without the progress bar and what is noted of data and rounds."""
        lines = re.split(r"[\r\n]+", "\n".join(path.with_suffix(".err").read_text() for path in self.said))
        return [line for line in lines if line.strip() and not re.search(OF_THE_RUN, line)]


@dataclass(frozen=True)
class Runs:
    """Where runs are started from: a server of processes, and the settings all of them share."""

    server: ForkServerContext
    faults: Path
    settings: tuple[str, ...]

    def arguments(self, runs: Path, *overrides: str) -> list[str]:
        """The command line of a run whose folder is to lie below that one."""
        return [*self.settings, f"runs_dir={runs / 'runs'}", *overrides]

    def start(self, runs: Path, *overrides: str, ranks: int = 1, fault: Fault = Fault()) -> Started:
        """The command `trace-cl …` with these settings; `runs` is where they lie."""
        runs.mkdir(exist_ok=True, parents=True)
        arguments = self.arguments(runs, *overrides)
        said = [runs / f"said{len([*runs.glob('said*.out')]) + rank}" for rank in range(ranks)]
        port = str(free_port())
        processes = []
        for rank, path in enumerate(said):
            rendezvous = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": str(ranks)}
            here = {**rendezvous, "RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
            for suffix in (".out", ".err", ".calls"):
                path.with_suffix(suffix).touch()
            process = self.server.Process(
                target=command, args=(arguments, here, path, self.faults, fault if rank == 0 else Fault()), daemon=True
            )
            processes.append(process)
        started = Started(processes, said)
        for process in processes:
            process.start()
        return started

    def finish(self, runs: Path, *overrides: str, ranks: int = 1) -> Path:
        """The run, or what is left of it, to its end; gives its folder."""
        started = self.start(runs, *overrides, ranks=ranks)
        assert started.wait(), f"hangs: {started.sentences}"
        assert started.codes == {0}, (started.codes, started.sentences)
        return folder_of(runs)


def command(arguments: Sequence[str], surroundings: dict[str, str], said: Path, faults: Path, fault: Fault) -> None:
    """What `trace-cl` does, in a process of its own, forked."""
    os.environ.update(surroundings)
    for suffix, stream in ((".out", 1), (".err", 2)):
        os.dup2(os.open(said.with_suffix(suffix), os.O_WRONLY | os.O_APPEND), stream)
    sys.argv = ["trace-cl", *arguments]
    from trace_cl.__main__ import main

    [runs] = [value.removeprefix("runs_dir=") for value in arguments if value.startswith("runs_dir=")]
    log = os.open(said.with_suffix(".calls"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    ctypes.CDLL(str(faults)).faults_arm(runs.encode(), ctypes.c_long(fault.at), fault.error, log)
    sys.exit(main())


@dataclass(frozen=True)
class Reference:
    """A run that nothing happened to: its folder, how long it took, and what it wrote (`calls`)."""

    folder: Path
    seconds: float
    calls: tuple[str, ...]


def undisturbed(runs: Runs, folder: Path, *overrides: str, ranks: int = 1) -> Reference:
    """Such a run."""
    began = time.monotonic()
    started = runs.start(folder, *overrides, ranks=ranks)
    assert started.wait(), f"hangs: {started.sentences}"
    assert started.codes == {0}, (started.codes, started.sentences)
    return Reference(folder_of(folder), time.monotonic() - began, tuple(calls(started)))


def handles(pid: int | None, number: int) -> bool:
    """Whether a process does something of its own at a signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    [caught] = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(caught >> (number - 1) & 1)


def calls(started: Started) -> list[str]:
    """What a run's first rank wrote, synced, renamed and made, call by call: `rename trace/…/matrix.csv`."""
    return started.said[0].with_suffix(".calls").read_text().splitlines()


def trained(started: Started) -> int:
    """How many optimizer steps it made."""
    return sum(call.startswith("write") and call.endswith("/train.jsonl") for call in calls(started))


def free_port() -> int:
    """One that nothing listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
    return port


def folder_of(runs: Path) -> Path:
    """The one run's folder, whatever its method is called."""
    [folder] = {path.parent for path in (runs / "runs").rglob("config.yaml")}
    return folder


def content(folder: Path) -> dict[str, object]:
    """All that two runs of one configuration must share, file by file: bytes, and of JSON all but the clocks."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: None if path.name in OF_ITS_OWN else _content(path) for name, path in files.items()}


def _content(path: Path) -> object:
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text()))
    if path.name == "train.jsonl":
        return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
    return path.read_bytes()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(inner) for key, inner in value.items() if key not in CLOCKS}
    if isinstance(value, list):
        return [_timeless(inner) for inner in value]
    return value


def differing(folder: Path, reference: Path) -> list[str]:
    """The files in which two runs differ, or that one lacks."""
    ours, theirs = content(folder), content(reference)
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name, 0) != theirs.get(name, 0))


def phase(runs: Path) -> str:
    """What a run was about when it was killed, by what lies there."""
    if not (manifests := [*(runs / "runs").rglob("manifest.json")]):
        return "starting"
    folder = manifests[0].parent
    drafts = [path.name for path in folder.rglob("*") if path.suffix in (".tmp", ".old")]
    if any(name.startswith(("checkpoint", "halfway")) for name in drafts):
        return "checkpointing"
    finished = len(_read(manifests[0])["rounds"])
    if len(_read(folder / "summary.json").get("OP", ())) > finished:
        return "reporting"
    trained = _read(folder / "checkpoint" / "round.json").get("round", 0)
    return "scoring" if trained > finished or any(folder.glob("answers/*")) else "training"


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}
