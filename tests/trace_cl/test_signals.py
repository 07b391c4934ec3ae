"""What is asked of a run, and who else hears of it."""

import os
import pickle
import signal
from collections.abc import Iterator

import pytest

from trace_cl.signals import Stopped, listening, signals


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """What somebody hears who listened for SIGUSR1 before the run did, as submitit does."""
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda asked, frame: heard.append(asked))
    yield heard
    signal.signal(signal.SIGUSR1, before)


def test_whoever_listened_before_hears_once_all_is_put_by(heard: list[int]) -> None:
    with listening() as asked:
        asked.put_by()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert asked.checkpoint
        assert heard == []
        asked.put_by()
        asked.put_by()
    assert heard == [signal.SIGUSR1], "not before it was asked, nor twice"
    assert not signals.checkpoint


def test_where_no_one_listened_the_run_goes_on() -> None:
    with listening() as asked:
        os.kill(os.getpid(), signal.SIGUSR1)
        asked.put_by()
        assert not asked.checkpoint


def test_a_stop_reaches_a_sweep_from_another_process() -> None:
    stopped = pickle.loads(pickle.dumps(Stopped(signal.SIGTERM)))
    assert (stopped.code, str(stopped)) == (143, "SIGTERM")
