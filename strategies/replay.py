"""Replay: after each task, a look back at general instructions and at a part of every past task (TRACE, section 4)."""

import math
from dataclasses import dataclass
from typing import Any

from .base import Learner, Phase, Round
from .seqft import SeqFT
from .settings import COUNT, SHARE


@dataclass
class Replay(SeqFT):
    """Sequential fine-tuning that replays the instruction set (LIMA) and the first `ratio` of each past task.

    `mix=after` replays for `epochs` epochs once the task is learned, all sources shuffled together; `mix=together`
    mixes the same examples into every one of the task's own epochs. `instructions=false` leaves that set out.
    """

    ratio: float = 0.1
    epochs: int = 1
    mix: str = "after"
    instructions: bool = True

    name = "replay"

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        SHARE.check("strategy.ratio", self.ratio)
        COUNT.check("strategy.epochs", self.epochs)
        if self.mix not in ("after", "together"):
            raise ValueError(f"strategy.mix={self.mix} is not one of after, together")
        self.uses_instructions = self.instructions

    def sources(self, round: Round) -> dict[str, list[Any]]:
        """What is replayed in this round, by where it comes from."""
        replayed = {"instructions": list(round.instructions) if self.instructions else []}
        for task in round.past:
            # 0.29 of 100 examples are 28.999999999999996 to a computer.
            replayed[task.name] = list(task.train[: math.floor(round_off(self.ratio * len(task.train)))])
        return {name: examples for name, examples in replayed.items() if examples}

    def phases(self, round: Round) -> list[Phase]:
        [own] = super().phases(round)
        replayed = [example for examples in self.sources(round).values() for example in examples]
        if not replayed:
            return [own]
        if self.mix == "together":
            return [Phase(own.name, [*own.examples, *replayed], own.epochs)]
        return [own, Phase("replay", replayed, self.epochs)]

    def end_round(self, round: Round, learner: Learner) -> dict[str, Any]:
        return {"replayed": {name: len(examples) for name, examples in self.sources(round).items()}}


def round_off(number: float) -> float:
    """Without the last digits, which are binary fractions' noise."""
    return float(f"{number:.9f}")
