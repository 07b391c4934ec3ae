"""The shipped model: small, loadable by plain transformers, with a tokenizer that loses nothing."""

from itertools import islice
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from trace_cl.data.embedded import generate
from trace_cl.tiny import CHECKPOINT
from trace_cl.tiny.material import documents, text

ODD_TEXTS = (
    "",
    "  two blanks, a tab\tand a line\r\n\n",
    "判断以下文本对指定对象的态度：龘",
    "Zürich, Größe, naïve, e\u0301 and \u00e9",
    "👩‍🔬🇨🇭 ∑ 𝛼",
    "<s> x = <NUM_LIT:0> <EOL> def f ( self ) : <EOL>",
    "3.14159 1000 ½",
    "don't 're ,;  . ",
    "\u0000\u200b\ufeff",
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(CHECKPOINT)


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_tokenizer_loses_nothing(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_tokenizer_loses_nothing_of_the_benchmark(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = [text for splits in generate().values() for row in splits["test"] for text in row.values()]
    assert tokenizer.batch_decode(tokenizer(texts, add_special_tokens=False)["input_ids"]) == texts


def test_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    ids = tokenizer("word")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in ids


def test_size(model: Any) -> None:
    assert 2_000_000 <= model.num_parameters() <= 3_000_000
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) <= 10_000_000


def test_is_a_plain_llama(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    assert isinstance(model, LlamaForCausalLM)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.max_position_embeddings == 2048
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.do_sample is False
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_has_learned_to_look_back(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """The second time it reads a row of words, it is far less surprised than the first time."""
    row = tokenizer("lamp rope coin Köln 图书馆 bike ticket Montag map violin\n")["input_ids"]
    ids = torch.tensor([row + row[1:]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1]
    surprise = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    first, second = surprise.view(2, -1).mean(dim=1)
    assert second < 0.4 * first


def test_material_shares_no_instruction_with_the_benchmark() -> None:
    """No line of a prompt's fixed frame, nor a cue, stands in what the model was pretrained on."""
    prompts = [row["prompt"] for task, splits in generate().items() if task != "Lima" for row in splits["train"]]
    instructions = {prompt.split("\n")[0] for prompt in prompts if "\n" in prompt}
    cues = {prompt.rsplit("\n", 1)[1] for prompt in prompts if "\n" in prompt}
    assert len(instructions) == 6
    assert len(cues) == 5
    for document in map(text, islice(documents(2), 20_000)):
        lines = set(document.split("\n"))
        assert not any(instruction in document for instruction in instructions)
        assert not lines & cues
        assert "<EOL>" not in document
        assert not lines & set(prompts)
