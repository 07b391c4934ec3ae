"""Progressive prompts (Razdaibiedina et al., ICLR 2023, arXiv 2301.12314): a soft prompt a task, the model frozen.

Task k is learned by a new prompt P_k alone, read before all earlier ones: [P_k; …; P_1; text]. Whoever answers a text
of task i has to know that it is of task i, and reads [P_i; …; P_1; text]: nothing of that has changed since round i, so
nothing is forgotten.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from .base import Answerer, LoadModel, Phase, Round, Strategy, Task, shape_of
from .settings import COUNT
from .streams import stream
from .tensors import read_tensors

FILE = "prompts.safetensors"


class PromptEmbedding(nn.Module):
    """The model's embedding, with a few more tokens: those of the prompts, whose ids follow the vocabulary's.

    A prompt is then a run of ids before the text's, wherever a text may stand: padded, batched, answered.
    """

    def __init__(self, words: nn.Module, prompts: Sequence[Tensor]) -> None:
        super().__init__()
        self.words = words
        self.first = size_of(words)
        for number, prompt in enumerate(prompts, start=1):
            # Parameters of this very module, which is how DeepSpeed knows when to bring their shards together.
            self.register_parameter(f"prompt{number}", nn.Parameter(prompt))

    def forward(self, ids: Tensor) -> Tensor:
        """Ids B × L; their embeddings B × L × H."""
        own = ids >= self.first
        table = torch.cat(list(self.parameters(recurse=False)))
        words: Tensor = self.words(ids.masked_fill(own, 0))
        return torch.where(own[..., None], table[(ids - self.first).clamp(min=0)].to(words.dtype), words)


@dataclass
class ProgressivePrompts(Strategy):
    """Learn a prompt of `prompt_tokens` tokens a task, which begins as the embeddings of words drawn at random."""

    prompt_tokens: int = 10  # the paper's, section 4

    name = "progressive_prompts"
    needs_task_id = True
    changes_architecture = True

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        COUNT.check("strategy.prompt_tokens", self.prompt_tokens)

    def build(self, load: LoadModel, checkpoint: Path | None, rounds: Sequence[Round]) -> PreTrainedModel:
        model = load(None)
        words = model.get_input_embeddings()
        if checkpoint is None:
            draw = torch.Generator().manual_seed(stream(rounds[0].seed, "progressive_prompts"))
            ids = torch.randint(size_of(words), (len(rounds), self.prompt_tokens), generator=draw)
            prompts = [words(row.to(model.device)).detach() for row in ids]
        else:
            size = [self.prompt_tokens, shape_of(words.get_parameter("weight"))[1]]
            saved = read_tensors(checkpoint / FILE, {f"prompt{round.number}": size for round in rounds})
            prompts = [saved[f"prompt{round.number}"] for round in rounds]
        model.set_input_embeddings(PromptEmbedding(words, prompts))
        self.numbers = {round.task.name: round.number for round in rounds}
        self.first = size_of(words)
        return model

    def save_model(self, model: PreTrainedModel, folder: Path, weights: dict[str, Tensor] | None) -> None:
        """The prompts alone: the model is as it was."""
        everything = model.state_dict() if weights is None else weights
        prompts = {name.rpartition(".")[2]: value for name, value in everything.items() if is_prompt(name)}
        save_file({name: value.contiguous().cpu() for name, value in prompts.items()}, folder / FILE)

    def trainable(self, round: Round, step: int, model: nn.Module) -> Collection[str] | None:
        """This round's prompt."""
        own = f"prompt{round.number}"
        return [name for name, _ in model.named_parameters() if name.endswith(f".{own}")] if step == 0 else None

    def phases(self, round: Round) -> list[Phase]:
        before = self.prefix(round.number)
        return [
            Phase(phase.name, [replace(e, prompt=[*before, *e.prompt]) for e in phase.examples], phase.epochs)
            for phase in super().phases(round)
        ]

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


def size_of(embedding: nn.Module) -> int:
    """How many tokens an embedding knows."""
    return int(shape_of(embedding.get_parameter("weight"))[0])


def is_prompt(name: str) -> bool:
    """Whether a parameter's name is that of a prompt."""
    leaf = name.rpartition(".")[2]
    return leaf.startswith("prompt") and leaf.removeprefix("prompt").isdigit()
