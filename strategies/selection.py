"""How the half of HFT is chosen: what `conf/selection/` says, checked. It needs no model, and imports none."""

from dataclasses import dataclass


@dataclass
class Selection:
    """How the half is chosen (paper section 3.2, A.3.3).

    `level` is `category`, `model` or `layer`. At the category level `attention`, `mlp` and `norm` say how many of a
    layer's 4 attention matrices, 3 MLP matrices and 2 norms learn; a fractional count holds on average over the layers
    (1.5: one in a random half of them, two in the other half), and so does one that a model's fused matrices cannot
    give. Where a layer has more or fewer of a kind (two MLP matrices, four norms), as large a part of them learns.
    `embeddings` is `train` or `freeze`, and speaks of all that lies outside the layers: embedding, head and final norm.
    """

    level: str = "category"
    """Where the half is drawn: within each layer (`category`), over the whole `model`, or a whole `layer` in two."""
    attention: float = 2.0
    """Attention matrices, of 4, that learn in a layer."""
    mlp: float = 1.5
    """MLP matrices, of 3, that learn in a layer."""
    norm: float = 1.0
    """Norms, of 2, that learn in a layer."""
    embeddings: str = "train"
    """`train` or `freeze` what lies outside the layers: embedding, head, final norm."""

    def __post_init__(self) -> None:
        """Raise ValueError with one sentence that names the key."""
        if self.level not in ("category", "model", "layer"):
            raise ValueError(f"selection.level={self.level} is not one of category, model, layer")
        if self.embeddings not in ("train", "freeze"):
            raise ValueError(f"selection.embeddings={self.embeddings} is not one of train, freeze")
        for key, most in (("attention", 4), ("mlp", 3), ("norm", 2)):
            if not 0 <= getattr(self, key) <= most:
                raise ValueError(
                    f"selection.{key}={getattr(self, key):g} is not between 0 and {most}, a layer's modules"
                )
        if self.level != "category" and (self.attention, self.mlp, self.norm) != (2.0, 1.5, 1.0):
            raise ValueError(f"selection.attention, .mlp and .norm belong to selection=category, not {self.level}")

    @property
    def suffix(self) -> str:
        """What tells this selection from the default in a method's name: `-2x1`, `-layer`, `-frozen_embeddings`."""
        parts = [] if self.level == "category" else [self.level]
        if (self.attention, self.mlp) != (2.0, 1.5):
            parts.append(f"{self.attention:g}x{self.mlp:g}")
        if self.norm != 1.0:
            parts.append(f"norm{self.norm:g}")
        if self.embeddings == "freeze":
            parts.append("frozen_embeddings")
        return "".join(f"-{part}" for part in parts)
