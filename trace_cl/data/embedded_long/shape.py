"""The shape of every prompt: an instruction, the labels to choose from, a text, and the cue for the label."""

from collections.abc import Sequence


def prompt(instruction: str, labels: Sequence[str], text: str) -> str:
    """As the long sequence asks it (O-LoRA, arXiv 2310.14152); what follows is one of the labels."""
    return f"{instruction}\nOption: {', '.join(labels)}\n{text}\nAnswer:"
