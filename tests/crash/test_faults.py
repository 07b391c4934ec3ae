"""A disk that fills up or fails at any write, sync, rename or new folder of a run."""

import os
import re
from collections.abc import Callable
from errno import EIO, ENOSPC
from pathlib import Path

import pytest
from crash.harness import KILLS, Fault, Reference, Runs, differing

SETTINGS = (
    "hft=true",
    "checkpoint.every_steps=2",
    "benchmark.order=[FOMC,C-STANCE]",
    "benchmark.tasks={FOMC:{epochs:1},C-STANCE:{epochs:1}}",
    "evaluation.zero_shot=false",
)
"""Two rounds, which write as many kinds of files as any."""


def rows(matrix: Path) -> list[str]:
    return matrix.read_text().splitlines()[1:] if matrix.exists() else []


def try_each(calls: list[int], error: int, runs: Runs, whole: Reference, folder: Path) -> list[str]:
    """Let each of these calls fail, and the run go on afterwards; gives what is not as it should be."""
    wrong = []
    for at in calls:
        here, name = folder / f"{error} {at}", f"call {at}, {whole.calls[at - 1]}"
        failed = runs.start(here, *SETTINGS, fault=Fault(at, error))
        sentence = f"error: .*{os.strerror(error)}.*: nothing finished is lost.*"
        if not failed.wait() or failed.codes != {2} or not re.fullmatch(sentence, "\n".join(failed.sentences)):
            wrong.append(f"{name}: {failed.codes} {failed.sentences[-3:]}")
        [kept] = [rows(path) for path in (here / "runs").rglob("matrix.csv")] or [[]]
        finished = sum(is_a_round(call) for call in whole.calls[: at - 1]) - 1
        if finished > 0 and kept[:finished] != rows(whole.folder / "matrix.csv")[:finished]:
            wrong.append(f"{name}: of {finished} rows of the matrix there is {kept}")
        wrong += [f"{name}: {file} differs" for file in differing(runs.finish(here, *SETTINGS), whole.folder)]
    return wrong


def is_a_round(call: str) -> bool:
    """Whether with it a round is finished; the first of its kind begins the run."""
    return call.startswith("rename") and call.endswith("/manifest.json")


@pytest.mark.crash
@pytest.mark.parametrize(
    ("call", "error"),
    [("write", ENOSPC), ("write", EIO), ("fsync", EIO), ("rename", EIO), ("mkdir", ENOSPC)],
)
def test_whatever_fails_is_said_in_a_sentence_and_loses_nothing(
    call: str, error: int, runs: Runs, reference: Callable[..., Reference], tmp_path: Path
) -> None:
    """As the run begins, and in a round that comes after a finished one."""
    whole = reference(*SETTINGS)
    begun, first, second = (at for at, said in enumerate(whole.calls, start=1) if is_a_round(said))
    assert second < len(whole.calls)
    tried = [at for at in range(1, len(whole.calls) + 1) if not begun < at <= first]
    calls = [at for at in tried if whole.calls[at - 1].startswith(call)]
    assert calls
    wrong = try_each(calls[:: max(1, 100 // KILLS)], error, runs, whole, tmp_path)
    assert not wrong, "\n".join(wrong)


def test_a_checkpoints_weights_that_fill_the_disk(
    runs: Runs, reference: Callable[..., Reference], tmp_path: Path
) -> None:
    """Written by libraries, not by Python; the disk stays full."""
    whole = reference(*SETTINGS)
    calls = {said: at for at, said in enumerate(whole.calls, start=1) if "write " in said and "/checkpoint.tmp" in said}
    weights, tokenizer = ([at for said, at in calls.items() if part in said] for part in ("/.tmp", "/tokenizer.json"))
    wrong = try_each([weights[-1], tokenizer[-1]], ENOSPC, runs, whole, tmp_path)
    assert not wrong, "\n".join(wrong)
