"""The progress bar: where the run is, how fast it goes, and when all of it will be done."""

import sys
from collections.abc import Sequence
from time import perf_counter

from tqdm import tqdm


class Progress:
    """Counts training tokens over the whole run.

    The time left is what the remaining tokens take at the speed measured so far, plus each outstanding evaluation at
    what that task's last one took: evaluation is too large a part of a run to be left out.
    """

    def __init__(self, tokens_by_round: Sequence[int], scored: Sequence[Sequence[str]], shown: bool = True) -> None:
        """Of each round its tokens, and the tasks that are scored after it; the last round's are all."""
        self.scored, self.tasks = scored, scored[-1]
        self.rounds = len(tokens_by_round)
        self.tokens = sum(tokens_by_round)
        self.bar = tqdm(
            total=self.tokens, bar_format="{desc} |{bar:24}| {percentage:3.0f}%{postfix}", disable=not shown
        )
        self.trained = self.seconds = 0.0
        self.last_evaluation: dict[str, float] = {}
        self.outstanding = [task for tasks in scored for task in tasks]

    def skip_round(self, round: int, tokens: int, evaluated: bool) -> None:
        """A round that an earlier start of this run has done."""
        self.bar.update(tokens)
        if evaluated:
            self.outstanding = self.outstanding[len(self.scored[round - 1]) :]

    def skip_step(self, tokens: int) -> None:
        """A step that an earlier start of this run has done."""
        self.bar.update(tokens)

    def step(self, round: int, epoch: str, loss: float, tokens: int, seconds: float) -> None:
        """One optimizer step."""
        self.trained += tokens
        self.seconds += seconds
        self.bar.set_description_str(
            f"round {round}/{self.rounds} {self.tasks[round - 1]}, epoch {epoch}", refresh=False
        )
        speed = self.trained / self.seconds
        self.bar.set_postfix_str(f"loss {loss:.3f}, {speed:,.0f} tokens/s, {self._left(speed)} left", refresh=False)
        self.bar.update(tokens)

    def evaluating(self, round: int, task: str) -> None:
        """The evaluation of a task begins."""
        self.bar.set_description_str(f"round {round}/{self.rounds}, scoring {task}")
        self.began = perf_counter()

    def evaluated(self, round: int, task: str) -> None:
        """And ends."""
        self.last_evaluation[task] = perf_counter() - self.began
        if round:
            self.outstanding.remove(task)

    def say(self, text: str) -> None:
        """Print between two states of the bar."""
        if not self.bar.disable:
            tqdm.write(text)

    def warn(self, text: str) -> None:
        """The same on stderr."""
        if not self.bar.disable:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.close()

    def _left(self, tokens_per_second: float) -> str:
        training = (self.tokens - self.bar.n) / tokens_per_second
        return tqdm.format_interval(training + sum(self.last_evaluation.get(task, 0) for task in self.outstanding))
