"""SeqFT: sequential fine-tuning. Every parameter learns, and nothing is done against forgetting."""

from dataclasses import dataclass

from .base import Strategy


@dataclass
class SeqFT(Strategy):
    """Train on each task's own examples for its own number of epochs (TRACE, arXiv 2310.06762, section 4).

    It is the protocol's plain case: nothing is to be added to `Strategy`.
    """
