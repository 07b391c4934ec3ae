"""What holds of every cut of every batch."""

from collections import Counter
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from trace_cl.data.batches import PASS, collate, fewest_tokens, global_batches, micro_batches, shares, within_budget
from trace_cl.strategies.base import Example

LENGTHS = st.lists(st.integers(1, 60), max_size=40)
TOKENS = st.lists(st.integers(1, 99), min_size=1, max_size=9)
EXAMPLES = st.lists(st.builds(Example, TOKENS, TOKENS), max_size=12)


@given(lengths=LENGTHS, budget=st.integers(1, 200))
def test_groups_hold_every_example_once_within_the_budget_the_longest_first(lengths: list[int], budget: int) -> None:
    groups = within_budget(lengths, budget)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[index] for index in group) <= budget
    order = [lengths[index] for group in groups for index in group]
    assert order == sorted(lengths, reverse=True)
    for group in groups[:-1]:
        assert (len(group) + 1) * max(lengths[index] for index in group) > budget, "there was room for another"


@given(lengths=st.lists(st.integers(1, 900), min_size=1, max_size=9), budget=st.integers(900, 3000))
def test_no_cut_of_the_sorted_rows_has_fewer_tokens(lengths: list[int], budget: int) -> None:
    def cost(groups: list[list[int]]) -> int:
        return sum(len(group) * max(group) + PASS for group in groups)

    order = sorted(lengths, reverse=True)
    cuts = (cut for count in range(len(order)) for cut in combinations(range(1, len(order)), count))
    ways = [[order[a:b] for a, b in zip((0, *cut), (*cut, len(order)), strict=True)] for cut in cuts]
    allowed = [way for way in ways if all(len(group) == 1 or len(group) * group[0] <= budget for group in way)]
    found = [[lengths[index] for index in group] for group in fewest_tokens(lengths, budget)]
    assert [length for group in found for length in group] == order
    assert found in allowed
    assert cost(found) == min(map(cost, allowed))


@given(examples=EXAMPLES, budget=st.integers(1, 80))
def test_micro_batches_are_the_batch_cut(examples: list[Example], budget: int) -> None:
    parts = micro_batches(examples, budget)
    assert Counter(id(e) for part in parts for e in part) == Counter(id(e) for e in examples)
    assert all(len(part) == 1 or len(part) * max(map(len, part)) <= budget for part in parts)


@given(lengths=LENGTHS, ranks=st.integers(1, 9))
def test_shares_hold_every_example_once_each_where_there_was_least(lengths: list[int], ranks: int) -> None:
    dealt = shares(lengths, ranks)
    assert len(dealt) == ranks
    assert sorted(index for share in dealt for index in share) == list(range(len(lengths)))
    loads = [sum(lengths[index] for index in share) for share in dealt]
    for share, load in zip(dealt, loads, strict=True):
        assert not share or load - lengths[share[-1]] <= min(loads), "its last one was another's"


@given(count=st.integers(0, 60), size=st.integers(1, 20), seed=st.text(max_size=5))
def test_an_epoch_holds_every_example_once(count: int, size: int, seed: str) -> None:
    examples = [Example([number], [0]) for number in range(count)]
    batches = list(global_batches(examples, size, seed))
    assert sorted(example.prompt[0] for batch in batches for example in batch) == list(range(count))
    assert [len(batch) for batch in batches] == [size] * (count // size) + [count % size] * (count % size > 0)


@settings(deadline=None)
@given(examples=EXAMPLES, more=st.integers(0, 50))
def test_every_answer_token_is_predicted_once_from_what_stands_before_it(examples: list[Example], more: int) -> None:
    total = sum(len(e.answer) for e in examples) + more + 1
    batch = collate(examples, total)
    rows = batch.input_ids.tolist()
    assert len({len(row) for row in rows}) == 1
    seen = []
    for position, target in zip(batch.positions.tolist(), batch.targets.tolist(), strict=True):
        row, place = divmod(position, len(rows[0]))
        seen.append((row, rows[row][: place + 1], target))
    naive = []
    for row, example in enumerate(examples):
        for number, token in enumerate(example.answer):
            naive.append((row, [*example.prompt, *example.answer[:number]], token))
    assert seen == naive
    assert batch.share == len(naive) / total
