"""O-LoRA: orthogonal low-rank adaptation (Wang et al., Findings of EMNLP 2023, arXiv 2310.14152).

Round t learns an adapter of its own beside those of the rounds before, which are frozen and still added:
W + (α/r) Σ_{i≤t} B_i A_i. The rows of A_i span what task i was learned in, and a penalty keeps A_t orthogonal to them:
L + λ₁ Σ_{i<t} Σ |A_i A_tᵀ| + λ₂ (‖A_t‖ + ‖B_t‖), summed over the adapted matrices. The paper prints the squares of the
first sum's entries (equation 8); the authors' code, whose λ₁ this is, takes their absolute values.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .base import Bytes, Learner, LoadModel, Parts, Round, Unsuitable, shape_of
from .dropout import ExampleDropout
from .lora_seqft import targets
from .seqft import SeqFT
from .settings import BELOW_ONE, COUNT, NOT_NEGATIVE
from .streams import stream
from .tensors import read_tensors

FILE = "adapter_model.safetensors"


class SummedAdapters(nn.Module):
    """A matrix under low-rank adapters that are added up: W x + scaling · Σ_i B_i A_i x.

    The sum of adapters of rank r is one adapter, of their A below one another (T·r × in) and their B side by side
    (out × T·r), so that its input is dropped out and multiplied once.
    """

    def __init__(
        self, matrix: nn.Module, adapters: Sequence[tuple[Tensor, Tensor]], scaling: float, dropout: nn.Module
    ):
        super().__init__()
        self.matrix = matrix
        self.dropout = dropout
        self.scaling = scaling
        self.count = len(adapters)
        for number, (down, up) in enumerate(adapters, start=1):
            # Parameters of this very module, which is how DeepSpeed knows when to bring their shards together.
            self.register_parameter(f"lora_A{number}", nn.Parameter(down))
            self.register_parameter(f"lora_B{number}", nn.Parameter(up))

    def stacked(self) -> tuple[Tensor, Tensor]:
        """All A (T·r × in), and all B (out × T·r)."""
        numbers = range(1, self.count + 1)
        downs: list[Tensor] = [self.get_parameter(f"lora_A{number}") for number in numbers]
        ups: list[Tensor] = [self.get_parameter(f"lora_B{number}") for number in numbers]
        return torch.cat(downs), torch.cat(ups, dim=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs … × in; outputs … × out."""
        down, up = self.stacked()
        plain: Tensor = self.matrix(inputs)
        return plain + linear(linear(self.dropout(inputs), down), up) * self.scaling


@dataclass
class OLoRA(SeqFT):
    """Learn an adapter a round, orthogonal to the adapters of the rounds before.

    `strength` is λ₁, `norm_strength` λ₂. `r` is the rank of each adapter, `alpha` / `r` the factor it is added with,
    `dropout` that of its input. `target_modules` are the matrices that have one, by the ends of their names; null:
    those that peft adapts in this architecture. The adapters of all rounds are there from the beginning, later ones
    with B = 0, so that they add nothing yet. The checkpoint is their sum, as one adapter of rank T·r in peft's layout.
    """

    strength: float = 0.5  # the authors' scripts (order_1.sh, T5-large and Llama); by task from 0 to 5 in their long.sh
    norm_strength: float = 0.0  # the authors' scripts; by task up to 0.3 in their long.sh
    r: int = 8  # the authors' scripts
    alpha: int = 32  # the authors' code
    dropout: float = 0.1  # the authors' code
    target_modules: list[str] | None = field(default_factory=lambda: ["q_proj", "v_proj"])  # the authors' code, Llama

    name = "o_lora"
    changes_architecture = True
    uses = frozenset({"gradients", "weights"})

    def __post_init__(self) -> None:
        """Raise ValueError naming the key."""
        NOT_NEGATIVE.check("strategy.strength", self.strength)
        NOT_NEGATIVE.check("strategy.norm_strength", self.norm_strength)
        COUNT.check("strategy.r", self.r)
        COUNT.check("strategy.alpha", self.alpha)
        BELOW_ONE.check("strategy.dropout", self.dropout)
        self.terms = ("orthogonality", "norms") if self.norm_strength else ("orthogonality",)
        self.frozen: dict[str, Tensor] = {}
        """Every round's A, in main memory, by its parameter's name: what later ones are to be orthogonal to."""

    def build(self, load: LoadModel, checkpoint: Path | None, rounds: Sequence[Round]) -> PreTrainedModel:
        model = load(None)
        chosen = targets(model, self.target_modules)
        adapted = {
            path: module
            for path, module in model.named_modules()
            if any(f".{path}".endswith(f".{target}") for target in chosen)
        }
        sizes = {path: sizes_of(path, module) for path, module in adapted.items()}
        rank = len(rounds) * self.r
        saved = None
        if checkpoint is not None:
            downs = {in_peft(path, "A"): (rank, inside) for path, (inside, _) in sizes.items()}
            ups = {in_peft(path, "B"): (outside, rank) for path, (_, outside) in sizes.items()}
            saved = read_tensors(checkpoint / FILE, downs | ups)
        for number, (path, matrix) in enumerate(adapted.items()):
            inside, outside = sizes[path]
            if saved is None:
                downs_here = [self.first(round, path, inside) for round in rounds]
                ups_here = [torch.zeros(outside, self.r) for _ in rounds]
            else:
                downs_here = list(saved[in_peft(path, "A")].split(self.r))
                ups_here = list(saved[in_peft(path, "B")].split(self.r, dim=1))
                self.frozen |= {f"{path}.lora_A{n}": down for n, down in enumerate(downs_here, start=1)}
            like = matrix.get_parameter("weight")
            adapters = [
                (down.to(like.device, like.dtype), up.to(like.device, like.dtype).contiguous())
                for down, up in zip(downs_here, ups_here, strict=True)
            ]
            dropout = ExampleDropout(self.dropout, number) if self.dropout else nn.Identity()
            model.set_submodule(path, SummedAdapters(matrix, adapters, self.alpha / self.r, dropout))
        self.dtype = model.dtype
        self.inside = sum(inside for inside, _ in sizes.values())
        # What makes peft read the checkpoint: it is one adapter, of all ranks.
        self.config = LoraConfig(
            task_type="CAUSAL_LM",
            base_model_name_or_path=model.name_or_path,
            r=rank,
            lora_alpha=len(rounds) * self.alpha,
            lora_dropout=self.dropout,
            target_modules=chosen,
            inference_mode=True,
        )
        return cast(PreTrainedModel, model.eval())  # the new modules too

    def first(self, round: Round, path: str, inside: int) -> Tensor:
        """An A (r × in) as LoRA begins with it."""
        generator = torch.Generator().manual_seed(stream(round.seed, "o_lora", round.number, path))
        return nn.init.kaiming_uniform_(torch.empty(self.r, inside), a=math.sqrt(5), generator=generator)

    def save_model(self, model: PreTrainedModel, folder: Path, weights: dict[str, Tensor] | None) -> None:
        """The adapters alone: the model is as it was."""
        everything = model.state_dict() if weights is None else weights
        numbers = range(1, self.config.r // self.r + 1)
        stacked = {}
        for path in (name.removesuffix(".lora_A1") for name in everything if name.endswith(".lora_A1")):
            for side, dim in (("A", 0), ("B", 1)):
                parts = [everything[f"{path}.lora_{side}{number}"].cpu() for number in numbers]
                stacked[in_peft(path, side)] = torch.cat(parts, dim)
        save_file(stacked, folder / FILE, metadata={"format": "pt"})
        self.config.save_pretrained(str(folder))

    def trainable(self, round: Round, step: int, model: nn.Module) -> Collection[str] | None:
        """This round's adapter."""
        own = (f".lora_A{round.number}", f".lora_B{round.number}")
        return [name for name, _ in model.named_parameters() if name.endswith(own)] if step == 0 else None

    def adjust_gradients(self, round: Round, learner: Learner) -> dict[str, Any]:
        """Add the penalties' gradients, λ₁ Σ_i sign(A_t A_iᵀ) A_i and λ₂ θ / ‖θ‖, to the loss's.

        They need whole matrices, which the loss does not see where they are spread, but which are small.
        """
        weights, pulls = learner.weights(), dict[str, Parts]()
        if self.strength and round.past:
            own = learner.gather({name: part for name, part in weights.items() if ".lora_A" in name})
            pulls["orthogonality"] = learner.scatter({n: self.strength * self.overlap(n, a) for n, a in own.items()})
        if self.norm_strength:
            squares = torch.stack([part.double().square().sum() for part in weights.values()])
            norms = learner.sum_over_shards(squares).sqrt().tolist()
            pulls["norms"] = {
                name: part * (self.norm_strength / norm) if norm else torch.zeros_like(part)  # B begins as zero
                for (name, part), norm in zip(weights.items(), norms, strict=True)
            }
        if not pulls:
            return {}
        gradients, logged = learner.take_gradients(), {}
        for term, parts in pulls.items():
            for name, part in parts.items():
                gradients[name].add_(part)
            # Of a function of degree one the gradient's inner product with the weights is its value (Euler).
            values = torch.stack([(parts[name].double() * weights[name]).sum() for name in sorted(parts)])
            logged[term] = learner.sum_over_shards(values.sum()).item()
        learner.put_gradients(gradients)
        return logged

    def overlap(self, name: str, down: Tensor) -> Tensor:
        """∂/∂A_t Σ_{i<t} Σ |A_i A_tᵀ| = Σ_{i<t} sign(A_t A_iᵀ) A_i, of a matrix's A_t (r × in) and its name."""
        path, _, number = name.rpartition(".lora_A")
        earlier = torch.cat([self.frozen[f"{path}.lora_A{i}"] for i in range(1, int(number))]).to(down.dtype)
        return (down @ earlier.T).sign() @ earlier

    def end_round(self, round: Round, learner: Learner) -> dict[str, Any]:
        """Keep this round's A, as exactly as the model will hold it."""
        own = {name: part for name, part in learner.weights().items() if ".lora_A" in name}
        self.frozen |= {name: down.to(self.dtype) for name, down in learner.gather(own).items()}
        return {}

    def extra_bytes(self, round: Round, trainable: int) -> Bytes:
        """The penalty's gradient on the device; every earlier A, this one and its gradient in main memory."""
        acts = bool(self.strength and round.past) or bool(self.norm_strength)
        kept = self.dtype.itemsize * len(round.past) + 2 * 4
        return Bytes(device=4 * trainable * acts, host=self.r * self.inside * kept)


def sizes_of(path: str, matrix: nn.Module) -> tuple[int, int]:
    """How long a matrix's inputs and outputs are. Raises Unsuitable for what multiplies none."""
    if not isinstance(matrix, nn.Linear | Conv1D):
        raise Unsuitable(f"strategy.target_modules: {path} is no matrix that a text is multiplied with; leave it out")
    shape = shape_of(matrix.get_parameter("weight"))
    return (shape[1], shape[0]) if isinstance(matrix, nn.Linear) else (shape[0], shape[1])


def in_peft(path: str, side: str) -> str:
    """The name that peft has in its files for an adapter's A or B."""
    return f"base_model.model.{path}.lora_{side}.weight"
