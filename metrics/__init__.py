"""What a run is judged by: scorers for single answers, and two figures for the whole matrix of scores.

A scorer takes predictions and references and returns one score an example, from 0 to 100. `METRICS` names them for
the benchmark files; a new one is a file here and an entry there. This package knows nothing of models, tasks or runs.
"""

from metrics.accuracy import accuracy, first_character
from metrics.matrix import backward_transfer, overall_performance
from metrics.pairs import VARIANTS, Metric, Variant
from metrics.rouge_l import rouge_l
from metrics.similarity import similarity

METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "first_character": first_character,
    "similarity": similarity,
    "rouge_l": rouge_l,
}

__all__ = [
    "METRICS",
    "VARIANTS",
    "Metric",
    "Variant",
    "accuracy",
    "backward_transfer",
    "first_character",
    "overall_performance",
    "rouge_l",
    "similarity",
]
