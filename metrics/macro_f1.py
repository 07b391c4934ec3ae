"""Macro-averaged F1 of a classification, for tasks whose classes are of unequal size."""

from collections.abc import Sequence

from .accuracy import accuracy
from .pairs import Variant


class MacroF1:
    """A metric of the whole corpus: its single scores only say which answers are right."""

    def __call__(
        self, predictions: Sequence[str], references: Sequence[str], variant: Variant = "standard"
    ) -> list[float]:
        """100 where the prediction equals the reference, else 0; one score an example.

        Raises:
            ValueError: unequal lengths or an unknown variant.
        """
        return accuracy(predictions, references, variant)

    def corpus(self, predictions: Sequence[str], references: Sequence[str], variant: Variant = "standard") -> float:
        """100 · the mean, over the classes that occur among the references, of F1 = 2 TP / (2 TP + FP + FN).

        An answer that is no class at all counts against the class it should have named, and against no other: a model
        that talks nonsense in many ways adds no classes. (scikit-learn's `f1_score` with `average="macro"` and the
        references' classes as `labels`.)

        Raises:
            ValueError: no examples, unequal lengths or an unknown variant.
        """
        right = accuracy(predictions, references, variant)
        if not right:
            raise ValueError("Macro-F1 needs at least one example.")
        predicted, expected = list(predictions), list(references)
        if variant == "standard":
            predicted, expected = ([text.strip() for text in texts] for texts in (predicted, expected))
        total = 0.0
        for name in sorted(set(expected)):
            hits = sum(score > 0 for score, reference in zip(right, expected, strict=True) if reference == name)
            total += 2 * hits / (predicted.count(name) + expected.count(name))
        return 100.0 * total / len(set(expected))


macro_f1 = MacroF1()
