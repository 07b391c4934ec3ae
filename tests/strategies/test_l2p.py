"""L2P: which prompts a text chooses, what of the pool learns from it, and that answers choose as training does."""

from itertools import chain
from pathlib import Path

import pytest
import torch
from support import FakeTask
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy
from transformers import LlamaForCausalLM, PreTrainedModel

from trace_cl.data.batches import collate, micro_batches
from trace_cl.evaluation import Generator
from trace_cl.likelihood import reference_loss
from trace_cl.speculative import answer
from trace_cl.strategies.base import Example, Round
from trace_cl.strategies.l2p import L2P
from trace_cl.training.engine import Optimization
from trace_cl.training.loss import LanguageModel
from trace_cl.training.model import load_tokenizer
from trace_cl.training.ranks import Ranks
from trace_cl.training.torch_engine import TorchLearner

TASK = FakeTask("a", 0)
ROUND = Round(1, [TASK], [])
PROMPTS, KEYS = "model.embed_tokens.prompts", "model.embed_tokens.keys.weight"


@pytest.fixture
def plain(small_model: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64)


@pytest.fixture
def l2p() -> L2P:
    return L2P(pool_size=6, chosen=2, prompt_tokens=3, strength=0.5)


@pytest.fixture
def model(l2p: L2P, small_model: Path) -> PreTrainedModel:
    return l2p.build(lambda _: LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64), None, [ROUND])


@torch.no_grad()
def chosen_by_hand(model: PreTrainedModel, plain: LlamaForCausalLM, prompt: list[int]) -> tuple[list[int], float]:
    """The two prompts with the highest cosines, each computed by itself, and how far these are from 1 together."""
    query = plain.get_input_embeddings()(torch.tensor(prompt)).mean(dim=0)
    keys = model.get_parameter(KEYS).detach()
    cosines = {n: float(cosine_similarity(query, key, dim=0)) for n, key in enumerate(keys)}
    nearest = sorted(cosines, key=lambda n: -cosines[n])[:2]
    return nearest, sum(1 - cosines[n] for n in nearest)


@torch.no_grad()
def logits_by_hand(model: PreTrainedModel, plain: LlamaForCausalLM, example: Example) -> Tensor:
    """The plain model's, given the chosen prompts, closest first, and the text as embeddings."""
    nearest, _ = chosen_by_hand(model, plain, example.prompt)
    text = plain.get_input_embeddings()(torch.tensor([*example.prompt, *example.answer[:-1]]))
    embedded = torch.cat([*model.get_parameter(PROMPTS)[nearest], text])[None]
    logits: Tensor = plain(inputs_embeds=embedded).logits[0, -len(example.answer) :]
    return logits


def test_a_text_chooses_the_closest_prompts_alone_or_in_a_batch(
    l2p: L2P, model: PreTrainedModel, plain: LlamaForCausalLM
) -> None:
    chosen = {tuple(chosen_by_hand(model, plain, example.prompt)[0]) for example in TASK.train}
    assert len(chosen) > 1, "else nothing is shown"
    [phase] = l2p.phases(ROUND)
    learned: list[Tensor] = []

    class Seen(LanguageModel):
        def mean(self, batch: object) -> Tensor:
            learned.append(self.logits(batch))  # type: ignore[arg-type]
            return super().mean(batch)  # type: ignore[arg-type]

    l2p.loss(Seen(model), collate(phase.examples, total=36))
    by_hand = torch.cat([logits_by_hand(model, plain, example) for example in TASK.train])
    torch.testing.assert_close(learned[0], by_hand, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("guessed", [False, True], ids=["", "guessed"])
def test_an_answer_is_generated_behind_the_same_prompts(
    l2p: L2P, model: PreTrainedModel, plain: LlamaForCausalLM, guessed: bool
) -> None:
    """Of prompts of several lengths that begin alike, and then a token at a time or in one pass with the answer; what
    was learned from just before is forgotten."""
    l2p.loss(LanguageModel(model), collate(l2p.phases(ROUND)[0].examples[:1], total=3))
    prompts = [[5, 6, 7, 8, *example.prompt] for example in TASK.train]
    assert len({tuple(chosen_by_hand(model, plain, prompt)[0]) for prompt in prompts}) > 1
    asked = [[*l2p.slots, *prompt] for prompt in prompts]
    answers = answer(model, asked, 4, lambda ids: False)
    if guessed:
        assert answer(model, asked, 4, lambda ids: False, answers) == answers
    for prompt, said in zip(prompts, answers, strict=True):
        assert logits_by_hand(model, plain, Example(prompt, said)).argmax(dim=-1).tolist() == said


def test_the_references_loss_chooses_by_the_prompt_alone(
    l2p: L2P, model: PreTrainedModel, plain: LlamaForCausalLM, small_model: Path
) -> None:
    answerer = Generator(model, load_tokenizer(str(small_model)), 9, 4096, Ranks(), learning_tokens=100)
    prompts, references = [example.prompt for example in TASK.train], ["A long reference"] * 6 + ["B"] * 6
    loss = reference_loss(lambda prompts, learner: l2p.answer(TASK, prompts, learner), prompts, references, answerer)
    answers = [[*answerer.encode(text), answerer.tokenizer.eos_token_id][:9] for text in references]
    examples = [Example(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    logits = torch.cat([logits_by_hand(model, plain, example) for example in examples])
    assert loss == pytest.approx(cross_entropy(logits, torch.tensor([*chain(*answers)])).item(), rel=1e-9)


def test_the_pull_is_the_distance_of_the_chosen_keys(l2p: L2P, model: PreTrainedModel, plain: LlamaForCausalLM) -> None:
    """And its gradient the finite difference of that; of the keys that no text chose it is nothing."""
    example = TASK.train[0]
    batch = collate([Example([*l2p.slots, *example.prompt], example.answer)], total=len(example.answer))
    key = model.get_parameter(KEYS)
    l2p.strength = 2.0
    whole = l2p.loss(LanguageModel(model), batch)
    nearest, distance = chosen_by_hand(model, plain, example.prompt)
    assert batch.notes["pull"].item() == pytest.approx(2.0 * distance)
    whole.backward()
    assert key.grad is not None
    eps = 1e-6
    for row in range(6):
        for column in (0, 5):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    key[row, column] += sign * eps
                    query = plain.get_input_embeddings()(torch.tensor(example.prompt)).mean(dim=0)
                    values.append(2.0 * sum(1 - float(cosine_similarity(query, key[n], dim=0)) for n in nearest))
                    key[row, column] -= sign * eps
            assert key.grad[row, column].item() == pytest.approx((values[0] - values[1]) / (2 * eps), abs=1e-7)
    touched = [row for row in range(6) if key.grad[row].abs().sum() > 0]
    prompts = model.get_parameter(PROMPTS).grad
    assert prompts is not None
    assert sorted(nearest) == touched == [row for row in range(6) if prompts[row].abs().sum() > 0]


def test_what_a_step_learns_does_not_depend_on_how_it_is_cut(l2p: L2P, model: PreTrainedModel) -> None:
    [phase] = l2p.phases(ROUND)
    examples = [Example(e.prompt, e.answer * (n % 3 + 1)) for n, e in enumerate(phase.examples)]
    total = sum(len(e.answer) for e in examples)
    sums = []
    for budget in (10_000, 60, 1):
        batches = [collate(cut, total) for cut in [*micro_batches(examples, budget), []]]
        losses = [l2p.loss(LanguageModel(model), batch).item() for batch in batches]
        sums.append((sum(losses), sum(batch.notes["pull"].item() for batch in batches)))
        assert losses[-1] == 0, "of no examples"
    assert sums[0] == pytest.approx(sums[1], rel=1e-12)
    assert sums[0] == pytest.approx(sums[2], rel=1e-12)


def test_the_pool_alone_learns_and_keys_move(l2p: L2P, model: PreTrainedModel) -> None:
    names = l2p.trainable(ROUND, 0, model)
    assert names == [PROMPTS, KEYS]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    learner = TorchLearner(model, Optimization(learning_rate=0.1), 4096, l2p.loss)
    pulls = []
    for _ in range(3):
        learner.backward(l2p.phases(ROUND)[0].examples)
        pulls.append(learner.noted["pull"])
        learner.step()
    learner.close()
    assert [name for name, p in model.named_parameters() if not torch.equal(p, before[name])] == names
    assert pulls[2] < pulls[1] < pulls[0]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"pool_size": 0}, r"strategy\.pool_size=0 must be at least 1"),
        ({"pool_size": 3, "chosen": 4}, r"strategy\.chosen=4 must be between 1 and 3"),
        ({"prompt_tokens": 0}, r"strategy\.prompt_tokens=0"),
        ({"strength": -1}, r"strategy\.strength=-1"),
    ],
)
def test_a_wrong_value_names_its_key(values: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        L2P(**values)
