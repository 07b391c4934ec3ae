"""What is left of general abilities, of which no task asks (TRACE, arXiv 2310.06762, section 4.2)."""

from collections.abc import Mapping
from statistics import mean


def overall_ability(scores: Mapping[str, float]) -> float:
    """The mean over abilities, scored from 0 to 100 (HFT, Table 12). Raises ValueError where there is none."""
    if not scores:
        raise ValueError("no ability was scored")
    return mean(scores.values())


def general_ability_delta(after: Mapping[str, float], before: Mapping[str, float]) -> float:
    """TRACE's ΔR^G: the mean over abilities of the score after a round less the base model's, R_t − R_0.

    Both score the same abilities, from 0 to 100. Raises ValueError where they do not.
    """
    if after.keys() != before.keys():
        raise ValueError(f"not the same abilities: {', '.join(sorted(after.keys() ^ before.keys()))}")
    return overall_ability({ability: score - before[ability] for ability, score in after.items()})
