"""L2P: learning to prompt (Wang et al., CVPR 2022, arXiv 2112.08654): a pool of soft prompts, the model frozen.

Each prompt of the pool has a key. A text is read behind the N prompts whose keys are closest to its query, by cosine:
nobody has to be told which task it is of, and tasks share what they have in common. The chosen prompts learn from the
answers, their keys are pulled towards the query: L + λ Σ_s (1 − cos(q, k_s)) (equation 5).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from .base import Answerer, Batch, LoadModel, Model, Observer, Phase, Round, Strategy, Task
from .prompts import added, save_added, set_embedding, size_of, words_at_random
from .settings import COUNT, NOT_NEGATIVE, Range
from .streams import stream


class Keys(nn.Module):
    """The prompts' keys, M × H. A module by itself, because what is pulled is its output: so DeepSpeed knows when the
    gradient comes."""

    def __init__(self, keys: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(keys)

    def forward(self, queries: Tensor) -> Tensor:
        """The cosine of each query (B × H) with each key: B × M."""
        return normalize(queries, dim=-1) @ normalize(self.weight.to(queries.dtype), dim=-1).T


class PromptPool(Observer):
    """The model's embedding, with `slots` more tokens, which stand before a text: where they stand come the `chosen`
    closest of the pool's `prompts` (M × L_p × H), the closest first.

    A text's query is the mean of its own words' embeddings, as the model had them: of its prompt, never of an answer.
    """

    def __init__(self, words: nn.Module, prompts: Tensor, keys: Tensor, chosen: int) -> None:
        super().__init__()
        self.words = words
        self.first = size_of(words)
        self.prompts = nn.Parameter(prompts)
        self.keys = Keys(keys)
        self.chosen = chosen
        self.slots = chosen * prompts.shape[1]
        self.ends: list[int] | None = None
        self.distances: Tensor | None = None

    def look_at(self, batch: Batch) -> None:
        """Where each row's answer begins, of the rows that come next; unless told so, nowhere, as in a text that is to
        be answered."""
        self.ends = [len(example.prompt) for example in batch.examples]

    def forward(self, ids: Tensor) -> Tensor:
        """Ids B × L; their embeddings B × L × H. `distances` (B) are then the sums of the chosen keys' distances."""
        slot = ids >= self.first
        words: Tensor = self.words(ids.masked_fill(slot, 0))
        ends, self.ends = self.ends, None
        cosines = self.keys(self.queries(words, slot, ends))
        nearest = cosines.topk(self.chosen, dim=-1)
        self.distances = (1 - nearest.values).sum(dim=-1)
        prompts = self.prompts[nearest.indices].flatten(1, 2).to(words.dtype)
        filled = prompts.take_along_dim((ids - self.first).clamp(min=0)[..., None], dim=1)
        return torch.where(slot[..., None], filled, words)

    def queries(self, words: Tensor, slot: Tensor, ends: list[int] | None) -> Tensor:
        """B × H: the mean of what stands behind the slots and before the answer; zero where nothing does."""
        text = (slot.cumsum(dim=1) == self.slots) & ~slot
        if ends is not None:
            columns = torch.arange(slot.shape[1], device=slot.device)
            text &= columns < torch.tensor(ends or [0], device=slot.device)[:, None]
        precise = words.detach().to(torch.promote_types(words.dtype, torch.float32))
        return (precise * text[..., None]).sum(dim=1) / text.sum(dim=1, keepdim=True).clamp(min=1)


@dataclass
class L2P(Strategy):
    """Learn a pool of `pool_size` prompts (M) of `prompt_tokens` tokens (L_p), of which each text chooses `chosen` (N).

    `strength` is λ, what the chosen keys are pulled with. Prompts and keys begin as words of the vocabulary, drawn at
    random. The query is not the output of a frozen copy of the model, as the paper's, but its embeddings' mean.
    """

    pool_size: int = 10  # the paper's M, section 5
    chosen: int = 5  # the paper's N, section 5
    prompt_tokens: int = 5  # the paper's L_p, section 5
    strength: float = 0.5  # the paper's λ, section 5

    name = "l2p"
    changes_architecture = True
    leaves_model = True
    terms = ("pull",)

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        COUNT.check("strategy.pool_size", self.pool_size)
        COUNT.check("strategy.prompt_tokens", self.prompt_tokens)
        Range(1, self.pool_size).check("strategy.chosen", self.chosen)
        NOT_NEGATIVE.check("strategy.strength", self.strength)

    def build(self, load: LoadModel, checkpoint: Path | None, rounds: Sequence[Round]) -> PreTrainedModel:
        model = load(None)
        words, seed = model.get_input_embeddings(), rounds[0].seed
        prompts = words_at_random(words, (self.pool_size, self.prompt_tokens), stream(seed, "l2p", "prompts"))
        keys = words_at_random(words, (self.pool_size,), stream(seed, "l2p", "keys"))
        self.pool = PromptPool(words, prompts, keys, self.chosen)
        set_embedding(model, self.pool, checkpoint)
        self.slots = list(range(self.pool.first, self.pool.first + self.pool.slots))
        return model

    def save_model(self, model: PreTrainedModel, folder: Path, weights: dict[str, Tensor] | None) -> None:
        """The pool alone: the model is as it was."""
        save_added(model, folder, weights)

    def trainable(self, round: Round, step: int, model: nn.Module) -> Collection[str] | None:
        """The pool, in every round."""
        return list(added(model)) if step == 0 else None

    def phases(self, round: Round) -> list[Phase]:
        return [
            Phase(phase.name, [replace(e, prompt=[*self.slots, *e.prompt]) for e in phase.examples], phase.epochs)
            for phase in super().phases(round)
        ]

    def loss(self, model: Model, batch: Batch) -> Tensor:
        task = model.mean(batch)
        distances, self.pool.distances = self.pool.distances, None
        assert distances is not None
        # Every answer token has the distance of its text: so the mean is one over the step, however that is cut.
        tokens = torch.tensor([len(example.answer) for example in batch.examples] or [0], device=distances.device)
        pull = self.strength * batch.mean(distances * tokens)
        batch.note("pull", pull)
        return task + pull

    def positions(self, round: Round) -> int:
        return self.chosen * self.prompt_tokens

    def answer(self, task: Task, prompts: Sequence[list[int]], learner: Answerer) -> list[str]:
        return learner.generate([[*self.slots, *prompt] for prompt in prompts])
