"""In-context learning (Brown et al., NeurIPS 2020, arXiv 2005.14165): a few training examples stand before each text.

The model is never trained. It is TRACE's baseline (arXiv 2310.06762, section 4), but for what is shown: that is drawn
from the training split alone, where TRACE's own program (`inference/ICL.py`) draws from the split that is scored.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

from transformers import PreTrainedModel

from .base import Answerer, LoadModel, Round, Task
from .settings import COUNT, NOT_NEGATIVE
from .zero_shot import ZeroShot

SEPARATOR = "\n\n"
"""After each demonstration, as in TRACE. An answer ends before it: a model that has seen how demonstrations follow each
other goes on with another one (the Language Model Evaluation Harness, too, stops there by default)."""

Ids = tuple[int, ...]


class Demonstration(NamedTuple):
    """A training example as it is shown: without start and end tokens, a separator behind it."""

    prompt: Ids
    answer: Ids
    ids: Ids


@dataclass
class ICL(ZeroShot):
    """Each text is asked behind `demonstrations` examples of its task, each whole, prompt and answer.

    They are drawn by the seed, of every answer as many: where answers are few labels these are balanced, else no two
    are alike. With the text they have `prompt_tokens` at most, and what the model has positions for: an example that
    has no room is passed over for the next, and a text that leaves none is asked as it is. So is passed over what has
    the very text for its prompt (in TRACE test texts stand among the training ones).
    """

    demonstrations: int = 6  # TRACE's, section 4
    prompt_tokens: int = 1024  # ours: as long as any prompt that is answered may be

    name = "icl"
    needs_task_id = True

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        NOT_NEGATIVE.check("strategy.demonstrations", self.demonstrations)
        COUNT.check("strategy.prompt_tokens", self.prompt_tokens)

    def build(self, load: LoadModel, checkpoint: Path | None, rounds: Sequence[Round]) -> PreTrainedModel:
        model = load(checkpoint)
        config = model.config.get_text_config()
        self.start: int | None = config.bos_token_id
        self.longest: float = getattr(config, "max_position_embeddings", None) or math.inf
        self.seed = rounds[0].seed
        return model

    def answer(self, task: Task, prompts: Sequence[list[int]], learner: Answerer) -> list[str]:
        drawn = self.draw(task, tuple(learner.encode(SEPARATOR)))
        most = math.ceil(self.demonstrations / max(1, len({each.answer for each in drawn})))
        room = min(self.prompt_tokens, self.longest - task.answer_tokens)
        asked = [self.behind(prompt, drawn, most, room) for prompt in prompts]
        answers = learner.generate(asked)
        return [
            answer if text == prompt else answer.partition(SEPARATOR)[0]
            for answer, text, prompt in zip(answers, asked, prompts, strict=True)
        ]

    def draw(self, task: Task, separator: Ids) -> list[Demonstration]:
        """The task's different examples in a random order: first one of each answer, then a second of each, and so
        on."""
        turns, seen = dict[Demonstration, int](), Counter[Ids]()
        for example in Random(f"icl/{self.seed}/{task.name}").sample(task.train, len(task.train)):
            prompt, answer = self.bare(example.prompt), tuple(example.answer[:-1])
            drawn = Demonstration(prompt, answer, (*prompt, *answer, *separator))
            turns.setdefault(drawn, seen[answer])
            seen[answer] += 1
        return sorted(turns, key=turns.__getitem__)

    def behind(self, prompt: list[int], drawn: Sequence[Demonstration], most: int, room: float) -> list[int]:
        """The prompt behind the first of the drawn that may stand before it, at most so many of one answer, in `room`
        tokens all together; a start token stays in front."""
        text = self.bare(prompt)
        shown: list[int] = []
        answers = Counter[Ids]()
        for each in drawn:
            if answers.total() == self.demonstrations:
                break
            fits = len(shown) + len(each.ids) + len(prompt) <= room
            if fits and answers[each.answer] < most and not alike(each.prompt, text):
                shown += each.ids
                answers[each.answer] += 1
        return [*prompt[: len(prompt) - len(text)], *shown, *text]

    def bare(self, prompt: list[int]) -> Ids:
        """A prompt without its start token."""
        return tuple(prompt[1:] if prompt[:1] == [self.start] else prompt)


def alike(one: Ids, other: Ids) -> bool:
    """Whether two prompts are one text, of which either may have lost its left."""
    length = min(len(one), len(other))
    return one[-length:] == other[-length:]
