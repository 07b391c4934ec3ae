"""P-tuning v2: what stands before a text in every layer, that it alone learns, and that answers read the same."""

from pathlib import Path

import pytest
import torch
from architectures import with_weights, without_weights
from peft import PeftModel
from support import FakeTask
from transformers import DynamicCache, GenerationConfig, LlamaForCausalLM, PreTrainedModel

from trace_cl.data.batches import collate
from trace_cl.strategies.base import Round, Unsuitable
from trace_cl.strategies.p_tuning import PTuning
from trace_cl.training.engine import Optimization
from trace_cl.training.layout import Layout
from trace_cl.training.loss import LanguageModel
from trace_cl.training.memory import activations
from trace_cl.training.torch_engine import TorchLearner

TASK = FakeTask("a", 0)
ROUNDS = [Round(1, [TASK], [])]


@pytest.fixture
def model(small_model: Path) -> PreTrainedModel:
    model = LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64)
    return PTuning(prefix_tokens=3).build(lambda _: model, None, ROUNDS)


@pytest.mark.parametrize(
    ("architecture", "sizes"), [("llama", {}), ("qwen3", {"head_dim": 8}), ("gemma2", {"head_dim": 8})]
)
def test_the_prefix_begins_as_words_that_the_model_has_read(architecture: str, sizes: dict[str, int]) -> None:
    """Also where keys are fewer than queries, and of a width of their own."""
    plain = with_weights(architecture, torch.float64, **sizes)
    strategy = PTuning(prefix_tokens=3)
    words, others = (strategy.words(plain, seed)[0].tolist() for seed in (1, 2))
    assert words != others
    theirs = plain(input_ids=torch.tensor([[*words, 5, 6, 7]])).logits[:, 3:]
    ours = strategy.build(lambda _: plain, None, ROUNDS)(input_ids=torch.tensor([[5, 6, 7]])).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_prefix_is_past_keys_and_values(model: PreTrainedModel, small_model: Path) -> None:
    """Of any values, held against the plain model that is given them by hand; at the answer positions of a batch."""
    plain = LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64)
    weight = model.get_parameter("prompt_encoder.default.embedding.weight")
    torch.manual_seed(0)
    with torch.no_grad():
        weight.copy_(torch.randn_like(weight))
    batch = collate(TASK.train[:3], total=9)
    ours = LanguageModel(model).logits(batch)
    layers, heads, width = 2, 2, 8
    by_hand = []
    for example in TASK.train[:3]:
        cache = DynamicCache()
        for layer in range(layers):
            key, value = (
                torch.stack([weight[:, (2 * layer + kind) * 16 + 8 * head :][:, :width] for head in range(heads)])[None]
                for kind in (0, 1)
            )
            cache.update(key, value, layer)
        ids = torch.tensor([[*example.prompt, *example.answer[:-1]]])
        by_hand.append(plain(input_ids=ids, past_key_values=cache).logits[0, -len(example.answer) :])
    torch.testing.assert_close(ours, torch.cat(by_hand), rtol=1e-9, atol=1e-9)


def test_an_answer_is_what_the_forward_pass_says_however_far_it_is_padded(model: PreTrainedModel) -> None:
    prompts = [[5, 6, 7, 8, 9], [4, 3]]
    ids, mask = torch.tensor([prompts[0], [0, 0, 0, *prompts[1]]]), torch.tensor([[1] * 5, [0, 0, 0, 1, 1]])
    config = GenerationConfig(max_new_tokens=6, do_sample=False, pad_token_id=0)
    answers = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, 5:].tolist()  # type: ignore[operator]
    for prompt, answer in zip(prompts, answers, strict=True):
        text = list(prompt)
        for _ in range(6):
            text.append(int(model(input_ids=torch.tensor([text])).logits[0, -1].argmax()))
        assert answer == text[len(prompt) :]


def test_the_prefix_alone_learns(model: PreTrainedModel) -> None:
    strategy = PTuning(prefix_tokens=3)
    names = strategy.trainable(ROUNDS[0], 0, model)
    assert names == ["prompt_encoder.default.embedding.weight"]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    learner = TorchLearner(model, Optimization(learning_rate=0.1), 4096, strategy.loss)
    learner.backward(TASK.train)
    learner.step()
    learner.close()
    assert [name for name, p in model.named_parameters() if not torch.equal(p, before[name])] == names


def test_what_is_saved_peft_reads(small_model: Path, tmp_path: Path) -> None:
    strategy, ids = PTuning(prefix_tokens=2), torch.tensor([[5, 6, 7]])

    def load(folder: Path | None = None) -> PreTrainedModel:
        return LlamaForCausalLM.from_pretrained(small_model)

    tuned = strategy.build(load, None, ROUNDS)
    with torch.no_grad():
        tuned.get_parameter("prompt_encoder.default.embedding.weight").neg_()
    whole = {name: value.clone() for name, value in tuned.state_dict().items()}
    strategy.save_model(tuned, tmp_path / "model", None)
    with torch.no_grad():
        tuned.get_parameter("prompt_encoder.default.embedding.weight").zero_()  # as of a rank that has no part
    strategy.save_model(tuned, tmp_path / "weights", whole)
    logits = []
    for folder in (tmp_path / "model", tmp_path / "weights"):
        assert sorted(file.name for file in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
        logits += [PeftModel.from_pretrained(load(), str(folder)).eval()(input_ids=ids).logits]
        logits += [strategy.build(load, folder, ROUNDS)(input_ids=ids).logits]
    tuned.load_state_dict(whole)
    assert all(torch.equal(each, tuned(input_ids=ids).logits) for each in logits)


def test_without_weights_it_is_built_and_its_activations_counted() -> None:
    counted = []
    for tokens in (1, 9):
        model = PTuning(prefix_tokens=tokens).build(lambda _: without_weights("qwen3", head_dim=8), None, ROUNDS)
        assert {p.device.type for p in model.parameters()} == {"meta"}
        counted.append(activations(model, torch.float32, Layout(), (2, 7, 3)))
    # Of each of the 8 tokens more: the keys and values of 2 heads of 8, in 4 layers and 2 rows, if not copied.
    assert counted[1] - counted[0] >= 8 * 2 * 2 * 8 * 4 * 2 * 4


def test_a_mixture_without_weights_is_built() -> None:
    """Through which nothing can go: the library's product of experts is told of no shapes but bf16's."""
    model = PTuning(prefix_tokens=3).build(lambda _: without_weights("mixtral"), None, ROUNDS)
    assert model.get_parameter("prompt_encoder.default.embedding.weight").shape == (3, 4 * 2 * 2 * 4)


def test_a_model_whose_heads_share_keys_that_peft_does_not_see_is_refused() -> None:
    with pytest.raises(Unsuitable, match="peft makes no prefix for the shared keys of FalconForCausalLM"):
        PTuning().build(lambda _: without_weights("falcon"), None, ROUNDS)


def test_a_wrong_value_names_its_key() -> None:
    with pytest.raises(ValueError, match=r"strategy\.prefix_tokens=0"):
        PTuning(prefix_tokens=0)
