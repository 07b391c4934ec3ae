"""How examples become tokens and batches."""

import pytest

from trace_cl.data.batches import Encoder, collate, fewest_tokens, global_batches, micro_batches, within_budget
from trace_cl.strategies.base import Example
from trace_cl.tiny import CHECKPOINT
from trace_cl.training.model import load_tokenizer

TOKENIZER = load_tokenizer(str(CHECKPOINT))


def test_prompt_and_answer_are_encoded_apart_and_joined() -> None:
    example = Encoder(TOKENIZER, 1536, 1024).example("态度：", "A")
    plain = [TOKENIZER(text, add_special_tokens=False).input_ids for text in ("态度：", "A")]
    assert example.prompt == [TOKENIZER.bos_token_id, *plain[0]]
    assert example.answer == [*plain[1], TOKENIZER.eos_token_id]


def test_a_long_prompt_loses_its_left_end_but_not_the_start_token() -> None:
    ids = TOKENIZER("one two three four five six seven", add_special_tokens=False).input_ids
    assert Encoder(TOKENIZER, 99, 5).prompt("one two three four five six seven") == [TOKENIZER.bos_token_id, *ids[-4:]]


def test_what_is_learned_is_cut_as_a_whole_on_the_left_of_its_prompt() -> None:
    """TRACE cuts prompt and answer together too, but loses start and end tokens where it does; ours keeps them."""
    texts = ("one two three four", "five six")
    prompt, answer = (TOKENIZER(text, add_special_tokens=False).input_ids for text in texts)
    whole = [*prompt, *answer, TOKENIZER.eos_token_id]
    for total in range(2, 2 * len(whole)):
        example = Encoder(TOKENIZER, total, 3).example(*texts)
        tokens = [*example.prompt, *example.answer]
        assert len(tokens) == min(total, len(whole) + 1)
        assert tokens == [TOKENIZER.bos_token_id, *whole[1 - len(tokens) :]]
        assert example.answer == [*answer, TOKENIZER.eos_token_id][-min(total - 1, len(answer) + 1) :]


def test_without_a_start_token_an_answer_that_is_too_long_still_follows_on_a_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = Encoder(TOKENIZER, 3, 3)
    monkeypatch.setattr(encoder, "start", [])
    texts = ("one two three four", "five six seven eight")
    example = encoder.example(*texts)
    ids = [TOKENIZER(text, add_special_tokens=False).input_ids for text in texts]
    assert (example.prompt, example.answer) == (ids[0][-1:], [ids[1][-1], TOKENIZER.eos_token_id])


def test_an_epoch_holds_every_example_once_in_batches_of_exactly_that_size() -> None:
    examples = [Example([number], [0]) for number in range(23)]
    batches = list(global_batches(examples, 5, "1/1/a/1"))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    order = [example.prompt[0] for batch in batches for example in batch]
    assert sorted(order) == list(range(23)) != order
    assert batches == list(global_batches(examples, 5, "1/1/a/1")) != list(global_batches(examples, 5, "1/1/a/2"))


def test_micro_batches_stay_within_the_budget_longest_with_longest() -> None:
    batch = [Example([0] * length, [0]) for length in (3, 90, 5, 40, 41, 7, 300)]
    cut = micro_batches(batch, 100)
    assert [[len(example) for example in part] for part in cut] == [[301], [91], [42, 41], [8, 6, 4]]
    assert within_budget([], 100) == []


def test_a_micro_batch_ends_where_padding_would_cost_more_than_a_pass_of_its_own() -> None:
    assert fewest_tokens([400, 10, 10], 8192) == [[0], [1, 2]]
    assert fewest_tokens([200, 10, 10], 8192) == [[0, 1, 2]]
    assert fewest_tokens([], 8192) == []


def test_positions_are_those_that_an_answer_token_follows() -> None:
    batch = collate([Example([1, 5, 6], [7, 2]), Example([1, 5], [9])], total=6)
    assert batch.input_ids.tolist() == [[1, 5, 6, 7], [1, 5, 0, 0]]
    assert batch.positions.tolist() == [2, 3, 4 + 1]
    assert batch.targets.tolist() == [7, 2, 9]
    assert batch.share == 0.5
