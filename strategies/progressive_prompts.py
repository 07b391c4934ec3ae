"""Progressive prompts (Razdaibiedina et al., ICLR 2023, arXiv 2301.12314): a soft prompt a task, the model frozen.

Task k is learned by a new prompt P_k alone, read before all earlier ones: [P_k; …; P_1; text]. Whoever answers a text
of task i has to know that it is of task i, and reads [P_i; …; P_1; text]: nothing of that has changed since round i, so
nothing is forgotten.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn
from transformers import PreTrainedModel

from .base import Answerer, LoadModel, Phase, Round, Strategy, Task
from .prompts import PromptEmbedding, added, save_added, set_embedding, size_of, words_at_random
from .settings import COUNT
from .streams import stream


@dataclass
class ProgressivePrompts(Strategy):
    """Learn a prompt of `prompt_tokens` tokens a task, which begins as the embeddings of words drawn at random."""

    prompt_tokens: int = 10  # the paper's, section 4

    name = "progressive_prompts"
    needs_task_id = True
    changes_architecture = True
    leaves_model = True

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        COUNT.check("strategy.prompt_tokens", self.prompt_tokens)

    def build(self, load: LoadModel, checkpoint: Path | None, rounds: Sequence[Round]) -> PreTrainedModel:
        model = load(None)
        words = model.get_input_embeddings()
        shape, seed = (len(rounds), self.prompt_tokens), stream(rounds[0].seed, self.name)
        drawn = words_at_random(words, shape, seed)
        prompts = {f"prompt{round.number}": prompt.clone() for round, prompt in zip(rounds, drawn, strict=True)}
        set_embedding(model, PromptEmbedding(words, prompts), checkpoint)
        self.numbers = {round.task.name: round.number for round in rounds}
        self.first = size_of(words)
        return model

    def save_model(self, model: PreTrainedModel, folder: Path, weights: dict[str, Tensor] | None) -> None:
        """The prompts alone: the model is as it was."""
        save_added(model, folder, weights)

    def trainable(self, round: Round, step: int, model: nn.Module) -> Collection[str] | None:
        """This round's prompt."""
        own = f"prompt{round.number}"
        return [full for full, name in added(model).items() if name == own] if step == 0 else None

    def phases(self, round: Round) -> list[Phase]:
        before = self.prefix(round.number)
        return [
            Phase(phase.name, [replace(e, prompt=[*before, *e.prompt]) for e in phase.examples], phase.epochs)
            for phase in super().phases(round)
        ]

    def positions(self, round: Round) -> int:
        return round.number * self.prompt_tokens

    def answer(self, task: Task, prompts: Sequence[list[int]], learner: Answerer) -> list[str]:
        before = self.prefix(self.numbers[task.name])
        return learner.generate([[*before, *prompt] for prompt in prompts])

    def unchanged(self, round: Round, task: Task) -> bool:
        """What a past task's texts are read behind learns no more."""
        return True

    def prefix(self, number: int) -> list[int]:
        """The ids of P_number, …, P_1."""
        return [
            self.first + (prompt - 1) * self.prompt_tokens + token
            for prompt in range(number, 0, -1)
            for token in range(self.prompt_tokens)
        ]
