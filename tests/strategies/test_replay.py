"""What Replay looks back at: counted, and by identity."""

from collections import Counter
from dataclasses import dataclass, field

import pytest

from trace_cl.strategies.base import Example, Round
from trace_cl.strategies.replay import Replay


def example(name: str) -> Example:
    """An example that is told from others by its name's letters."""
    return Example([ord(letter) for letter in name], [0])


@dataclass
class CountedTask:
    name: str
    size: int
    epochs: int = 5
    answer_tokens: int = 8
    train: list[Example] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.train = [example(f"{self.name}{row}") for row in range(self.size)]


TASKS = [CountedTask("a", 100), CountedTask("b", 25), CountedTask("c", 40)]
LIMA = [example("lima0"), example("lima1")]


def test_the_second_phase_holds_lima_and_the_first_tenth_of_each_past_task() -> None:
    own, replay = Replay().phases(Round(1, TASKS, LIMA))
    assert (own.name, list(own.examples), own.epochs) == ("c", TASKS[2].train, 5)
    assert (replay.name, replay.epochs) == ("replay", 1)
    assert list(replay.examples) == [*LIMA, *TASKS[0].train[:10], *TASKS[1].train[:2]]
    counts = {name: len(examples) for name, examples in Replay().sources(Round(1, TASKS, LIMA)).items()}
    assert counts == {"instructions": 2, "a": 10, "b": 2}


def test_the_first_round_replays_the_instructions_alone() -> None:
    _, replay = Replay().phases(Round(1, TASKS[:1], LIMA))
    assert replay.examples == LIMA


def test_mixed_together_every_epoch_of_the_task_holds_them() -> None:
    [mixed] = Replay(mix="together", ratio=0.2, epochs=3).phases(Round(1, TASKS, LIMA))
    assert mixed.epochs == 5
    expected = [*TASKS[2].train, *LIMA, *TASKS[0].train[:20], *TASKS[1].train[:5]]
    assert Counter(map(repr, mixed.examples)) == Counter(map(repr, expected))


@pytest.mark.parametrize(
    ("ratio", "size", "count"), [(0.29, 100, 29), (0.1, 30, 3), (0.1, 25, 2), (1.0, 7, 7), (0, 9, 0)]
)
def test_a_share_is_rounded_down(ratio: float, size: int, count: int) -> None:
    tasks = [CountedTask("a", size), CountedTask("b", 1)]
    assert len(Replay(ratio=ratio).sources(Round(1, tasks, [])).get("a", [])) == count


def test_with_nothing_to_replay_there_is_no_second_phase() -> None:
    assert len(Replay(ratio=0, instructions=False).phases(Round(1, TASKS, LIMA))) == 1


@pytest.mark.parametrize("wrong", [{"ratio": 1.5}, {"epochs": 0}, {"mix": "before"}])
def test_a_wrong_value_names_its_key(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"strategy.{next(iter(wrong))}"):
        Replay(**wrong)  # type: ignore[arg-type]
