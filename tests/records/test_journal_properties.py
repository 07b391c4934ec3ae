"""A journal that is killed at any of its calls to the system, again and again, and opened anew: it knows what was
written, or what stood before, and never a mixture."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_cl.records.files import read_matrix
from trace_cl.records.journal import CHECKPOINT, HALFWAY, Journal, Standing

TASKS = ("A", "B", "C")
CALLS = ("fsync", "rename", "mkdir", "unlink", "rmdir")

scores = st.lists(st.floats(0, 100), min_size=6, max_size=6)
attempts = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 2)), max_size=8)
"""At which call each start of the run is killed, and how often it puts by what a round has come to."""


@contextmanager
def killed_at(call: int) -> Iterator[None]:
    """The end of everything as this call to the system is made; 0: never."""
    left = [call]

    def counted(act: Callable[..., Any]) -> Callable[..., Any]:
        def act_or_die(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Dead
            return act(*args, **kwargs)

        return act_or_die

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, counted(getattr(os, name)))
        yield


class Dead(BaseException):
    """Stands for a kill -9: unlike an error it is not for anybody to catch."""


def learn(journal: Journal, standing: Standing, rows: list[list[float]], states: int, keep: bool) -> Standing:
    """What a run does of a round that is not finished: states inside it, its checkpoint, its scores."""
    number = standing.finished + 1
    if standing.trained is None:
        for step in range(1, states + 1):
            with journal.replacing(HALFWAY, lambda: {"round": number, "step": step}) as folder:  # noqa: B023
                assert folder is not None
                (folder / "state").write_text(f"{number}, {step}")
        record = {"round": number, "phases": [{}]}
        with journal.replacing(CHECKPOINT, lambda: {"round": number, "record": record}) as folder:
            assert folder is not None
            (folder / "weights").write_text(f"{number}")
        standing = replace(standing, trained=record)
    assert standing.trained is not None
    journal.checkpoint_made(number, keep)
    record = standing.trained | {"scores": {"standard": dict(zip(TASKS, rows[number - 1], strict=False))}}
    standing = replace(standing, rounds=(*standing.rounds, record), trained=None)
    journal.write_round(number, record)
    journal.finish_round(standing)
    return standing


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(scores, attempts, st.booleans())
def test_what_is_read_back_is_what_was_written(drawn: list[float], killed: list[tuple[int, int]], keep: bool) -> None:
    rows = [drawn[:1], drawn[1:3], drawn[3:]]
    with TemporaryDirectory() as folder:
        finished, journal = 0, Journal(Path(folder, "run"), TASKS)
        for call, states in (*killed, (0, 0)):
            with killed_at(call), suppress(Dead):
                standing = opened(journal)
                assert standing.finished >= finished, "nothing finished is lost"
                while (finished := standing.finished) < len(TASKS):
                    standing = learn(journal, standing, rows, states, keep)
            finished = check(journal, rows, finished)
        assert finished == len(TASKS)
        left = {path.name for path in journal.folder.iterdir() if path.is_dir()}
        assert left == {CHECKPOINT, "rounds", *(f"{CHECKPOINT}-round{t}" for t in (1, 2, 3) if keep)}
        assert not [*journal.folder.rglob("*.tmp")]


def opened(journal: Journal) -> Standing:
    """As a run begins or goes on."""
    journal.begin({"seed": 1}, {"A": "0" * 64}, {})
    return journal.standing()


def check(journal: Journal, rows: list[list[float]], finished: int) -> int:
    """Read back, by another process, what lies there; gives how many rounds are finished."""
    if not journal.folder.exists():
        return 0
    with TemporaryDirectory() as elsewhere:
        copy = Journal(Path(elsewhere, "run"), TASKS)
        shutil.copytree(journal.folder, copy.folder)
        standing = opened(copy)
        assert standing.finished in (finished, finished + 1)
        assert copy.rows(standing) == rows[: standing.finished]
        assert [record["round"] for record in standing.rounds] == [*range(1, standing.finished + 1)]
        if standing.finished:
            matrix = read_matrix(copy.folder / "matrix.csv")
            assert [row[: t + 1].tolist() for t, row in enumerate(matrix.to_numpy())] == rows[: standing.finished]
        if standing.finished < len(TASKS) and standing.checkpoint is not None:
            trained = standing.finished + (standing.trained is not None)
            assert (standing.checkpoint / "weights").read_text() == f"{trained}"
        if standing.halfway is not None:
            assert (standing.halfway / "state").read_text()[:1] == f"{standing.finished + 1}"
        return standing.finished
