"""Progressive prompts: what is read before a text, what of it learns, and that nothing learned is lost."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import FakeTask, results
from transformers import LlamaForCausalLM

from trace_cl.strategies.base import Round
from trace_cl.strategies.progressive_prompts import ProgressivePrompts
from trace_cl.strategies.prompts import PromptEmbedding
from trace_cl.training.engine import Optimization
from trace_cl.training.torch_engine import TorchLearner

TASKS = [FakeTask(name, seed) for seed, name in enumerate("abc")]
ROUNDS = [Round(1, TASKS[:t], []) for t in (1, 2, 3)]


def test_a_text_is_read_behind_the_prompts_newest_first(small_model: Path) -> None:
    """Against the same model given embeddings, put together by hand."""
    plain = LlamaForCausalLM.from_pretrained(small_model, dtype=torch.float64)
    strategy = ProgressivePrompts(prompt_tokens=2)
    model = strategy.build(lambda _: copy.deepcopy(plain), None, ROUNDS)
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, PromptEmbedding)
    prompts = [embedding.get_parameter(f"prompt{number}") for number in (1, 2, 3)]
    text = [5, 6, 7]
    [phase] = strategy.phases(ROUNDS[1])
    assert len(phase.examples[0].prompt) == 2 * 2 + len(TASKS[1].train[0].prompt)
    ours = model(input_ids=torch.tensor([[*strategy.prefix(2), *text]])).logits
    words = plain.get_input_embeddings()(torch.tensor(text))
    embedded = torch.cat([prompts[1], prompts[0], words])[None]
    torch.testing.assert_close(ours, plain(inputs_embeds=embedded).logits, rtol=1e-12, atol=1e-12)


def test_a_prompt_begins_as_words_of_the_vocabulary_drawn_from_the_seed(small_model: Path) -> None:
    drawn = []
    for seed in (1, 1, 2):
        model = ProgressivePrompts(prompt_tokens=3).build(
            lambda _: LlamaForCausalLM.from_pretrained(small_model), None, [Round(seed, TASKS[:1], [])]
        )
        drawn.append(model.get_parameter("model.embed_tokens.prompt1").detach().clone())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    words = model.get_parameter("model.embed_tokens.words.weight")
    assert all(any(torch.equal(token, word) for word in words) for token in drawn[0])


def test_this_rounds_prompt_alone_learns(small_model: Path) -> None:
    strategy = ProgressivePrompts(prompt_tokens=2)
    model = strategy.build(lambda _: LlamaForCausalLM.from_pretrained(small_model), None, ROUNDS)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    names = strategy.trainable(ROUNDS[1], 0, model)
    assert names == ["model.embed_tokens.prompt2"]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    learner = TorchLearner(model, Optimization(learning_rate=0.1), 4096, strategy.loss)
    for _ in range(2):
        learner.backward(strategy.phases(ROUNDS[1])[0].examples)
        learner.step()
    learner.close()
    assert [name for name, p in model.named_parameters() if not torch.equal(p, before[name])] == names


def test_the_answers_to_a_task_are_those_just_after_it_was_learned(
    run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are taken over; asked for again they are, to the byte, the same."""
    settings = ("strategy=progressive_prompts", "training.learning_rate=0.3")
    folder = run(*settings, method="progressive_prompts")
    monkeypatch.setattr(ProgressivePrompts, "unchanged", lambda *_: False)
    assert results(run(*settings, f"runs_dir={tmp_path / 'again'}")) == results(folder)
    assert json.loads((folder / "summary.json").read_text())["needs_task_id"] is True
    assert "this method has to be told which task a text belongs to" in (folder / "report.md").read_text()
    for t, task in enumerate(("C-STANCE", "FOMC", "MeetingBank"), start=1):
        extra = json.loads((folder / "rounds" / f"round{t}.json").read_text())["extra_bytes"]
        assert extra == {"device": 3 * 10 * 16 * 4, "host": 0}, "all rounds' prompts are there from the beginning"
        own, *later = [(folder / "predictions" / f"round{r}" / f"{task}.jsonl").read_bytes() for r in range(t, 4)]
        assert all(answers == own for answers in later)
    assert not (folder / "checkpoint" / "model.safetensors").exists()
    assert sorted(load_file(folder / "checkpoint" / "prompts.safetensors")) == ["prompt1", "prompt2", "prompt3"]


def test_a_wrong_value_names_its_key() -> None:
    with pytest.raises(ValueError, match=r"strategy\.prompt_tokens=0"):
        ProgressivePrompts(prompt_tokens=0)
