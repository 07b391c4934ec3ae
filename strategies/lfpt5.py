"""LFPT5 (Qin and Joty, ICLR 2022, arXiv 2110.07298): one soft prompt that solves tasks and generates their texts, for a
decoder-only model that is frozen.

Behind the prompt P a text x is answered, [P; x] → y; behind P and a task's generation token G_t, learned too, the model
says a text of that task, [P; G_t] → x. So before it learns a new task it can draw pseudo samples of the past ones from
itself: texts behind P and G_i, and its own answers to them. It learns from these beside the new task's examples, and is
held to what it predicted for them: L_task + λ_lm L_lm + λ_kd KL(p_old ‖ p).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .base import Answerer, Batch, Bytes, Example, Held, Learner, LoadModel, Model, Phase, Round, Strategy, Task
from .lwf import distillation
from .prompts import PromptEmbedding, added, save_added, set_embedding, size_of, words_at_random
from .settings import COUNT, NOT_NEGATIVE
from .streams import stream


@dataclass
class LFPT5(Strategy):
    """Train a prompt of `prompt_tokens` tokens, and a generation token a task, on through all tasks.

    `samples` pseudo samples of each past task are drawn when a round begins, token by token from the `top_k` likeliest,
    and labelled by the likeliest answer. Those that come to no end, or to one at once, are dropped. Every optimizer
    step learns from `batch_size` of them, and to generate them and as many of the task's own texts;
    `generation_strength` is λ_lm, `distillation_strength` λ_kd. No test prompt is ever at hand here.
    """

    prompt_tokens: int = 10  # ours: as progressive prompts; the authors' script has 300, for T5-large
    samples: int = 64  # ours
    batch_size: int = 8  # ours
    top_k: int = 64  # the authors' code
    generation_strength: float = 0.25  # the authors' script
    distillation_strength: float = 0.1  # ours, of a mean over tokens; the script's 0.01 is of the batch's sum

    name = "lfpt5"
    uses = frozenset({"gradients", "snapshot"})
    changes_architecture = True
    leaves_model = True
    terms = ("generation", "replay", "distillation")

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        for key in ("prompt_tokens", "samples", "batch_size", "top_k"):
            COUNT.check(f"strategy.{key}", getattr(self, key))
        for key in ("generation_strength", "distillation_strength"):
            NOT_NEGATIVE.check(f"strategy.{key}", getattr(self, key))
        self.learning: Literal["task", "generation", "replay"] = "task"
        self.step = 0

    def build(self, load: LoadModel, checkpoint: Path | None, rounds: Sequence[Round]) -> PreTrainedModel:
        model = load(None)
        self.weights_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
        words = model.get_input_embeddings()
        drawn = words_at_random(words, (self.prompt_tokens + len(rounds),), stream(rounds[0].seed, "lfpt5"))
        prompts = {"prompt": drawn[: self.prompt_tokens].clone()}
        prompts |= {f"generation{r.number}": drawn[[self.prompt_tokens + n]] for n, r in enumerate(rounds)}
        set_embedding(model, PromptEmbedding(words, prompts), checkpoint)
        self.vocabulary = size_of(words)
        self.prompt = list(range(self.vocabulary, self.vocabulary + self.prompt_tokens))
        return model

    def save_model(self, model: PreTrainedModel, folder: Path, weights: dict[str, Tensor] | None) -> None:
        """Prompt and generation tokens alone: the model is as it was."""
        save_added(model, folder, weights)

    def trainable(self, round: Round, step: int, model: nn.Module) -> Collection[str] | None:
        """The prompt, and the generation tokens of the tasks so far."""
        own = {"prompt", *(f"generation{number}" for number in range(1, round.number + 1))}
        return [full for full, name in added(model).items() if name in own] if step == 0 else None

    def phases(self, round: Round) -> list[Phase]:
        return [
            Phase(phase.name, [self.solving(e) for e in phase.examples], phase.epochs)
            for phase in super().phases(round)
        ]

    def begin_round(self, round: Round, learner: Learner) -> None:
        self.step = 0
        self.pseudo = {number: self.draw(round, number, learner) for number in range(1, round.number)}
        self.teacher = learner.snapshot() if self.distillation_strength and any(self.pseudo.values()) else None

    def draw(self, round: Round, number: int, learner: Answerer) -> list[Example]:
        """Pseudo samples of the task of an earlier round, no longer than its own examples."""
        train, seed = round.tasks[number - 1].train, stream(round.seed, "lfpt5", round.number, number)
        end, answer = train[0].answer[-1], max(len(example.answer) for example in train)
        asked = [[*self.prompt, self.generation_token(number)]] * self.samples
        longest = max(len(example.prompt) for example in train)
        drawn = learner.sample(asked, longest + 1, self.top_k, seed)
        texts = [text[:-1] for text in drawn if self.is_whole(text, end)]
        answers = learner.sample([[*self.prompt, *text] for text in texts], answer, 1, seed)
        return [Example(text, said) for text, said in zip(texts, answers, strict=True) if self.is_whole(said, end)]

    def is_whole(self, ids: list[int], end: int) -> bool:
        """Whether they come to an end, and not at once."""
        return len(ids) > 1 and ids[-1] == end

    def adjust_gradients(self, round: Round, learner: Learner) -> dict[str, Any]:
        """Add the gradients of what is learned beside the task: to generate, and from pseudo samples."""
        self.step += 1
        random = Random(f"lfpt5/{round.seed}/{round.number}/{self.step}")
        past = [(number, example) for number, examples in self.pseudo.items() for example in examples]
        own = [(round.number, example) for example in round.task.train]
        new, old = (random.sample(pool, min(self.batch_size, len(pool))) for pool in (own, past))
        told: dict[str, Any] = {}
        if self.generation_strength:
            texts = [self.generating(number, example) for number, example in (*new, *old)]
            told["generation"] = self.add_gradient("generation", texts, learner)
        if old:
            told["replay"] = self.add_gradient("replay", [self.solving(example) for _, example in old], learner)
            told["distillation"] = learner.noted.get("distillation", 0.0)
            told["replay"] -= told["distillation"]
        return told

    def add_gradient(self, part: Literal["generation", "replay"], examples: list[Example], learner: Learner) -> float:
        """Add that of a part of the loss to what there is; gives its value."""
        before = learner.take_gradients()
        self.learning = part
        loss = learner.backward(examples)
        self.learning = "task"
        learner.put_gradients({name: before[name] + more for name, more in learner.take_gradients().items()})
        return loss

    def loss(self, model: Model, batch: Batch) -> Tensor:
        if self.learning == "generation":
            return self.generation_strength * model.mean(batch)
        if self.learning == "task" or self.teacher is None:
            return model.mean(batch)
        logits = model.logits(batch)
        with torch.no_grad():
            before = self.teacher.logits(batch)
        term = self.distillation_strength * batch.mean(distillation(logits, before, temperature=1))
        batch.note("distillation", term)
        return batch.cross_entropy(logits) + term

    def end_round(self, round: Round, learner: Learner) -> dict[str, Any]:
        drawn = {round.tasks[number - 1].name: len(examples) for number, examples in self.pseudo.items()}
        self.pseudo, self.teacher = {}, None
        return {"pseudo_samples": drawn} if drawn else {}

    def solving(self, example: Example) -> Example:
        """[P; x] → y."""
        return replace(example, prompt=[*self.prompt, *example.prompt])

    def generating(self, number: int, example: Example) -> Example:
        """[P; G] → x, which ends as an answer does."""
        return Example([*self.prompt, self.generation_token(number)], [*example.prompt, example.answer[-1]])

    def generation_token(self, number: int) -> int:
        """The id of the generation token of a round's task."""
        return self.vocabulary + self.prompt_tokens + number - 1

    def positions(self, round: Round) -> int:
        return self.prompt_tokens + 1

    def answer(self, task: Task, prompts: Sequence[list[int]], learner: Answerer) -> list[str]:
        return learner.generate([[*self.prompt, *prompt] for prompt in prompts])

    def hold(self) -> Held:
        return Held({"step": self.step})

    def resume(self, held: Held) -> None:
        self.step = held.values["step"]

    def extra_bytes(self, round: Round, trainable: int) -> Bytes:
        """The teacher, and the logits of texts that are generated, with their gradient."""
        longest = sorted((len(example.prompt) for example in round.task.train), reverse=True)
        logits = 2 * 4 * self.vocabulary * sum(longest[: 2 * self.batch_size]) if self.generation_strength else 0
        return Bytes(device=logits + (self.weights_bytes if round.past and self.distillation_strength else 0))
