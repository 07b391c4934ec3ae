"""MbPA++: episodic memory in lifelong language learning (de Masson d'Autume et al., NeurIPS 2019, arXiv 1906.01076).

Every example learned is written into a memory, under a key from a network that never changes: here the base model,
whose last hidden states are averaged over the prompt's tokens. (The paper's key is BERT's first token; in a model that
reads from left to right that one is the same for every text.) The memory is read in two ways (section 3):

    sparse experience replay    after every epoch a few examples of past tasks, drawn at random, are learned again
    local adaptation            before a prompt is answered, the weights take L steps on the K examples whose keys are
                                nearest to its own: argmin over θ of −1/K Σ log p(answer | prompt) + λ‖θ − θ*‖²
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from .base import Adaptable, Bytes, Example, Learner, LoadModel, Phase, Round, Task
from .replay import round_off
from .seqft import SeqFT
from .settings import COUNT, NOT_NEGATIVE, POSITIVE, SHARE

FILE = "mbpa.safetensors"


@torch.no_grad()
def key_of(network: PreTrainedModel, prompt: Sequence[int]) -> Tensor:
    """The mean of the network's last hidden states over a prompt's tokens: H numbers, fp32, in main memory."""
    ids = torch.tensor([list(prompt)], device=network.device)
    hidden: Tensor = network.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0]
    return hidden.float().mean(dim=0).cpu()


def nearest(keys: Tensor, key: Tensor, count: int) -> list[int]:
    """The rows of keys (n × H) that lie nearest to a key by Euclidean distance, the nearest first; of equals the
    first."""
    distances = (keys - key).square().sum(dim=-1)
    found: list[int] = distances.argsort(stable=True)[:count].tolist()
    return found


@dataclass
class MbPA(SeqFT):
    """Sequential fine-tuning with sparse replay, whose model is adapted to each prompt's neighbours before it answers.

    `stored` is the share of each task's examples that is written into the memory. After each epoch as many examples of
    past tasks are replayed as are `ratio` of it. A prompt is answered after `steps` (L) steps of gradient descent, at a
    rate of `rate`, on its `neighbours` (K) in memory; `pull` is λ. With `steps=0` nothing is adapted, and no key made.
    """

    neighbours: int = 32  # the paper's K (section 4)
    steps: int = 30  # the paper's L (section 4)
    rate: float = 0.1  # ours: gradients are clipped to 1, and a step of training with AdamW is about as long
    pull: float = 0.001  # the paper's λ, and that of h3lio5's code
    ratio: float = 0.01  # the paper's 100 examples for every 10,000 that are learned (section 3)
    stored: float = 1.0  # the paper's: everything; it also tries 0.5 and 0.1

    name = "mbpa"
    uses = frozenset({"snapshot"})

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        COUNT.check("strategy.neighbours", self.neighbours)
        POSITIVE.check("strategy.rate", self.rate)
        for key in ("steps", "pull"):
            NOT_NEGATIVE.check(f"strategy.{key}", getattr(self, key))
        for key in ("ratio", "stored"):
            SHARE.check(f"strategy.{key}", getattr(self, key))
        self.keys: dict[str, Tensor] = {}
        self.network: PreTrainedModel | None = None

    def build(self, load: LoadModel, checkpoint: Path | None, rounds: Sequence[Round]) -> PreTrainedModel:
        self.load, self.model = load, load(checkpoint)
        sizes = [(parameter.numel(), parameter.element_size()) for parameter in self.model.parameters()]
        self.weights, self.bytes = sum(count for count, _ in sizes), sum(count * size for count, size in sizes)
        self.memories = {round.task.name: self.memory(round.seed, round.task) for round in rounds}
        return self.model

    def memory(self, seed: int, task: Task) -> list[Example]:
        """What of a task is written into the memory."""
        count = round(round_off(self.stored * len(task.train)))
        return Random(f"mbpa/{seed}/{task.name}").sample(list(task.train), count)

    def phases(self, round: Round) -> list[Phase]:
        [own] = super().phases(round)
        count = int(round_off(self.ratio * len(own.examples)))
        memory = [example for task in round.past for example in self.memory(round.seed, task)]
        if not count or not memory:
            return [own]
        phases = []
        for epoch in range(1, own.epochs + 1):
            drawn = Random(f"mbpa/{round.seed}/{round.number}/{epoch}").sample(memory, min(count, len(memory)))
            # The order of an epoch follows from its phase's name.
            phases += [Phase(f"{own.name} {epoch}", own.examples, 1), Phase(f"replay {epoch}", drawn, 1)]
        return phases

    def begin_round(self, round: Round, learner: Learner) -> None:
        self.network = None  # there is more room without it

    def end_round(self, round: Round, learner: Learner) -> dict[str, Any]:
        """Write the task into the memory."""
        memory = self.memory(round.seed, round.task)
        if self.steps and memory:
            self.keys[round.task.name] = torch.stack([self.key(example.prompt) for example in memory])
        return {"written": len(memory)}

    def key(self, prompt: Sequence[int]) -> Tensor:
        """A prompt's key, H."""
        if self.network is None:
            self.network = self.load(None).requires_grad_(False).to(self.model.device)  # type: ignore[arg-type]
        return key_of(self.network, prompt)

    def answer(self, task: Task, prompts: Sequence[list[int]], learner: Adaptable) -> list[str]:
        if not self.keys:
            return learner.generate(prompts)
        written = [name for name in self.memories if name in self.keys]  # in the tasks' order, after a restart too
        keys = torch.cat([self.keys[name] for name in written])
        memory = [example for name in written for example in self.memories[name]]
        answers = []
        for prompt in prompts:
            neighbours = [memory[place] for place in nearest(keys, self.key(prompt), self.neighbours)]
            answers += learner.adapted(neighbours, self.steps, self.rate, self.pull).generate([prompt])
        return answers

    def extra_bytes(self, round: Round, trainable: int) -> Bytes:
        """The key network and the weights that a prompt's adaptation begins from; and, where training takes less than
        it (Adam's 16 bytes for what learns there), fp32 weights and gradients of everything, whole on each device."""
        if not self.steps:
            return Bytes()
        width = self.model.config.get_text_config().hidden_size
        keys = sum(len(self.memories[task.name]) for task in round.tasks)
        return Bytes(device=2 * self.bytes + max(0, 2 * 4 * self.weights - 4 * 4 * trainable), host=4 * width * keys)

    def save(self, folder: Path) -> None:
        if self.keys:
            save_file(self.keys, folder / FILE)

    def restore(self, folder: Path) -> None:
        if (folder / FILE).exists():
            self.keys = load_file(folder / FILE)
