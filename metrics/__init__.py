"""What a run is judged by: scorers for answers, and figures of the whole matrix of scores.

A scorer takes predictions and references and returns one score an example, from 0 to 100. `METRICS` names them for
the benchmark files; a new one is a file here and an entry there. This package knows nothing of models, tasks or runs.
"""

from .abilities import general_ability_delta, overall_ability
from .accuracy import accuracy, first_character
from .interval import SMALL, wilson
from .macro_f1 import macro_f1
from .matrix import FIGURES, Figure, Needed, backward_transfer, figures, learned, overall_performance
from .pairs import VARIANTS, Metric, Variant, settled_when
from .rouge_l import rouge_l
from .sari import sari
from .scoring import Settled, is_of_corpus, score_answers, score_corpus, settled_by
from .similarity import similarity
from .transfer import FURTHER, average_performance, forgetting, forward_transfer, intransigence

METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "first_character": first_character,
    "similarity": similarity,
    "rouge_l": rouge_l,
    "macro_f1": macro_f1,
    "sari": sari,
}

__all__ = [
    "FIGURES",
    "FURTHER",
    "METRICS",
    "SMALL",
    "VARIANTS",
    "Figure",
    "Metric",
    "Needed",
    "Settled",
    "Variant",
    "accuracy",
    "average_performance",
    "backward_transfer",
    "figures",
    "first_character",
    "forgetting",
    "forward_transfer",
    "general_ability_delta",
    "intransigence",
    "is_of_corpus",
    "learned",
    "macro_f1",
    "overall_ability",
    "overall_performance",
    "rouge_l",
    "sari",
    "score_answers",
    "score_corpus",
    "settled_by",
    "settled_when",
    "similarity",
    "wilson",
]
