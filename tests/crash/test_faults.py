"""A disk that fills up or fails at any write, sync, rename or new folder of a run."""

from collections.abc import Callable
from errno import EIO, ENOSPC
from pathlib import Path

import pytest
from crash.harness import KILLS, Fault, Reference, Runs, differing

SETTINGS = ("hft=true", "benchmark.order=[FOMC,C-STANCE]", "evaluation.zero_shot=false")
"""Two rounds, which write as many kinds of files as any."""


def rows(matrix: Path) -> list[str]:
    return matrix.read_text().splitlines()[1:] if matrix.exists() else []


def try_each(calls: list[int], error: int, runs: Runs, whole: Reference, folder: Path) -> list[str]:
    """Let each of these calls fail, and the run go on afterwards; gives what is not as it should be."""
    wrong = []
    for at in calls:
        here = folder / f"{error} {at}"
        failed = runs.start(here, *SETTINGS, fault=Fault(at, error))
        name = f"call {at}, {whole.calls[at - 1]}"
        if not failed.wait() or not failed.codes <= {1, 2} or len(failed.sentences) != 1:
            wrong.append(f"{name}: {failed.codes} {failed.sentences[-3:]}")
        finished = sum(call.endswith("/matrix.csv") and call.startswith("rename") for call in whole.calls[: at - 1])
        [kept] = [rows(path) for path in (here / "runs").rglob("matrix.csv")] or [[]]
        if kept[:finished] != rows(whole.folder / "matrix.csv")[:finished]:
            wrong.append(f"{name}: of {finished} rows of the matrix there is {kept}")
        wrong += [f"{name}: {file} differs" for file in differing(runs.finish(here, *SETTINGS), whole.folder)]
    return wrong


@pytest.mark.crash
@pytest.mark.parametrize(
    ("call", "error"),
    [("write", ENOSPC), ("write", EIO), ("fsync", EIO), ("rename", EIO), ("mkdir", ENOSPC)],
)
def test_whatever_fails_is_said_in_a_sentence_and_loses_nothing(
    call: str, error: int, runs: Runs, reference: Callable[..., Reference], tmp_path: Path
) -> None:
    whole = reference(*SETTINGS)
    calls = [at for at, said in enumerate(whole.calls, start=1) if said.startswith(call)]
    assert calls
    assert not try_each(calls[:: max(1, 100 // KILLS)], error, runs, whole, tmp_path)


def test_a_checkpoints_weights_that_fill_the_disk(
    runs: Runs, reference: Callable[..., Reference], tmp_path: Path
) -> None:
    """Written by a library, not by Python."""
    whole = reference(*SETTINGS)
    calls = [at for at, said in enumerate(whole.calls, start=1) if "/.tmp" in said]
    assert len(calls) == 2, "one file in each of the two rounds"
    assert not try_each(calls[-1:], ENOSPC, runs, whole, tmp_path)
