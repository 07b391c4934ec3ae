"""The arithmetic of a method's terms, by hand."""

from typing import Any

import pytest

from trace_cl.records.terms import Terms, findings


def record_of(names: tuple[str, ...], *lines: dict[str, Any]) -> dict[str, Any]:
    terms = Terms(names)
    for line in lines:
        terms.add(line)
    return {"round": 2, "task": "FOMC", "terms": terms.record()}


def test_a_term_is_held_against_the_loss_it_is_not_part_of() -> None:
    record = record_of(("penalty",), {"loss": 1.0, "penalty": 0.0}, {"loss": 3.0, "penalty": -6.0})
    assert record["terms"] == {"penalty": {"steps": 2, "acted": 1, "mean": 3.0, "times_loss": 1.5}}
    inside = record_of(("penalty",), {"loss": 303.0, "task_loss": 2.0, "penalty": 301.0})
    assert inside["terms"]["penalty"]["times_loss"] == 150.5
    [said] = findings(inside)
    assert said.startswith("round 2 (FOMC): penalty was 150 times the loss")


@pytest.mark.parametrize(("penalty", "said"), [(99.0, 0), (100.0, 0), (101.0, 1)])
def test_a_hundred_times_the_loss_is_too_much(penalty: float, said: int) -> None:
    assert len(findings(record_of(("penalty",), {"loss": 1.0, "penalty": penalty}))) == said


def test_a_term_that_never_acted_is_told_of() -> None:
    """Be it zero, false, or never there; one step in which it acted is enough."""
    for line in ({"projected": False}, {"projected": 0.0}, {}):
        [said] = findings(record_of(("projected",), {"loss": 1.0, **line}, {"loss": 1.0, **line}))
        assert said.startswith("round 2 (FOMC): projected was zero in all of 2 steps")
    assert not findings(record_of(("projected",), {"loss": 1e-9, "projected": True}, {"loss": 0.0}))


def test_where_there_is_no_term_or_no_step_nothing_is_said() -> None:
    assert not findings(record_of((), {"loss": 1.0}))
    assert not findings(record_of(("penalty",)))
    assert not findings({"round": 1, "task": "FOMC"}), "a round of an earlier version"
