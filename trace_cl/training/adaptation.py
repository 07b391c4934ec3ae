"""A model adapted to a few examples for as long as it answers, and then as it was before."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from trace_cl.strategies.base import Example
from trace_cl.training.engine import Optimization
from trace_cl.training.torch_engine import TorchLearner


@dataclass(frozen=True)
class Adaptation:
    """`steps` of gradient descent on all weights θ, at a rate of `rate`, the gradient clipped as in training: they
    lower the examples' mean loss + `pull` · ‖θ − θ*‖², with θ* where they begin."""

    examples: Sequence[Example]
    steps: int
    rate: float
    pull: float
    tokens_per_batch: int

    @contextmanager
    def of(self, model: PreTrainedModel) -> Iterator[None]:
        """Inside, a whole model of this rank's own is adapted. Afterwards, whatever happened, its weights are the very
        tensors that they were, and what learns and the mode are as before."""
        before = {parameter: (parameter.data, parameter.requires_grad) for parameter in model.parameters()}
        training = model.training
        try:
            self._adapt(model)
            yield
        finally:
            for parameter, (values, learns) in before.items():
                parameter.grad = None
                parameter.data = values
                parameter.requires_grad_(learns)
            model.train(training)

    def _adapt(self, model: PreTrainedModel) -> None:
        start = {name: parameter.data for name, parameter in model.named_parameters()}
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        learner = TorchLearner(model.requires_grad_(True), Optimization(self.rate), self.tokens_per_batch)
        # Adam's first steps are as long where nothing is to be learned as where everything is.
        learner.optimizer = torch.optim.SGD(learner.parameters.values(), lr=self.rate)
        model.eval()  # an answer is to follow from the examples alone, and dropout would draw
        for _ in range(self.steps):
            learner.backward(self.examples)
            gradients, weights = learner.take_gradients(), learner.weights()
            for name, gradient in gradients.items():
                gradient.add_(weights[name] - start[name], alpha=2 * self.pull)
            learner.put_gradients(gradients)
            learner.step()
        learner.close()
