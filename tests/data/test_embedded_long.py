"""The embedded sequence: the same bytes everywhere, splits apart, labels balanced, and answers that are right."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support import compose

from trace_cl.config import check
from trace_cl.data import checks
from trace_cl.data.benchmark import load_data
from trace_cl.data.embedded_long import generate
from trace_cl.records.files import read_matrix
from trace_cl.run import start
from trace_cl.tiny import words

Rows = list[dict[str, str]]

LABELS = {
    "MNLI": 3, "CB": 3, "WiC": 2, "COPA": 2, "QQP": 2, "BoolQA": 2, "RTE": 2, "IMDB": 2, "yelp": 5, "amazon": 5,
    "SST-2": 2, "dbpedia": 14, "agnews": 4, "MultiRC": 2, "yahoo": 10,
}  # fmt: skip
"""How many labels each task has; in order 4."""
SHA256 = "3dfbdca5af84349f1b20d6748b1719418ca128230c6faae3cf669b767f541474"


@pytest.fixture(scope="module")
def benchmark() -> dict[str, dict[str, Rows]]:
    return generate()


def texts(rows: Rows) -> list[tuple[str, str, list[str], str]]:
    """Of each row the instruction, the text, the labels to choose from, and the answer."""
    found = []
    for row in rows:
        parts = re.fullmatch(r"(.+)\nOption: (.+)\n(.+)\nAnswer:", row["prompt"])
        assert parts is not None, row
        found.append((parts[1], parts[3], parts[2].split(", "), row["answer"]))
    return found


def every(benchmark: dict[str, dict[str, Rows]], task: str) -> Rows:
    return [row for split in benchmark[task].values() for row in split]


def test_same_bytes_on_every_machine(benchmark: dict[str, dict[str, Rows]]) -> None:
    assert hashlib.sha256(json.dumps(benchmark, ensure_ascii=False).encode()).hexdigest() == SHA256
    assert generate() == benchmark


def test_tasks_sizes_and_labels(benchmark: dict[str, dict[str, Rows]]) -> None:
    assert tuple(benchmark) == (*LABELS, "Lima")
    for task, count in LABELS.items():
        assert {name: len(rows) for name, rows in benchmark[task].items()} == {"train": 160, "eval": 30, "test": 30}
        for rows in benchmark[task].values():
            answers = Counter(answer for *_, answer in texts(rows))
            assert max(answers.values()) - min(answers.values()) <= 2
            assert {tuple(labels) for _, _, labels, _ in texts(rows)} == {
                tuple(labels) for labels in [texts(rows)[0][2]]
            }
            assert set(answers) == set(texts(rows)[0][2])
            assert len(answers) == count


def test_no_prompt_comes_twice(benchmark: dict[str, dict[str, Rows]]) -> None:
    for task in benchmark:
        prompts = [row["prompt"] for row in every(benchmark, task)]
        assert len(set(prompts)) == len(prompts), task


def test_the_checks_of_data_find_nothing() -> None:
    config = compose("benchmark=embedded_long")
    check(config)
    loaded = load_data(config.benchmark, instructions=True)
    assert list(loaded) == [*LABELS, "Lima"]
    assert {name: checks.findings(task, {}) for name, task in loaded.items()} == {name: [] for name in loaded}


def order(*overrides: str) -> list[str]:
    config = compose("benchmark=embedded_long", *overrides)
    check(config)
    return list(config.benchmark.order)


def test_the_orders_of_the_long_sequence() -> None:
    """As O-LoRA numbers them; 5 and 6 have ten tasks in the same order."""
    common = ["MNLI", "CB", "COPA", "QQP", "RTE", "IMDB", "SST-2", "dbpedia", "agnews", "yahoo"]
    assert order() == order("benchmark.order=4") == list(LABELS)
    assert order("benchmark.order=5") == ["MultiRC", "BoolQA", "WiC", *common[:-1], "yelp", "amazon", "yahoo"]
    assert order("benchmark.order=6") == ["yelp", "amazon", *common, "MultiRC", "BoolQA", "WiC"]
    assert sorted(order("benchmark.order=random1")) == sorted(LABELS)


def quantified(text: str) -> str:
    """By logic: what all are, this one is; what none is, it is not; of some nothing is known."""
    parts = re.fullmatch(r"(Each|Some|No) (\w+) in \w+ is (\w+)\. So this (\w+) is (not )?(\w+)\.", text)
    assert parts is not None, text
    assert (parts[2], parts[3]) == (parts[4], parts[6])
    if parts[1] == "Some":
        return "neutral"
    return "entailment" if (parts[1] == "No") == bool(parts[5]) else "contradiction"


def reported(text: str) -> str:
    parts = re.fullmatch(r"\w+ (.+) that the \w+ is (\w+)\. So it is (not )?(\w+)\.", text)
    assert parts is not None, text
    assert parts[2] == parts[4]
    if parts[1] in ("said", "heard"):
        return "maybe"
    assert parts[1] in ("saw", "noted", "lied", "was wrong")
    return "yes" if (parts[1] in ("saw", "noted")) != bool(parts[3]) else "no"


def same_question(text: str) -> str:
    first, second = text.split("? ")
    adjective, thing = re.findall(r"How (\w+) is the (\w+) of", first)[0]
    assert f"The {thing}: how {adjective} is it" in second
    return str(("now" in first) == ("now" in second))


def same_sense(text: str) -> str:
    first, second = text.removesuffix(".").split(". ")
    assert first.split()[-1] == second.split()[-1]
    return str(bool(re.search("color|dress", first)) == bool(re.search("color|dress", second)))


def cause_or_effect(text: str) -> str:
    choices = dict(re.findall(r"([AB]): ([\w ]+)", text))
    wanted = {"wind", "a dog"} if text.endswith("The reason?") else {"noise", "a hole"}
    [mark] = [mark for mark, choice in choices.items() if choice in wanted]
    return str(mark)


def price(text: str) -> str:
    passage, question = text.split(". ")
    return str(bool(re.search("rose|went up", passage)) == ("rise" in question))


def feeling(text: str) -> str:
    passage, _, answer = re.split(r"[.?] ", text)
    return str(bool(re.search(" likes | wants ", passage)) == ("good" in answer))


def worth(text: str) -> int:
    """+1 praise, -1 blame, 0 neither: of the last word, turned round by "not"."""
    last = text.removesuffix(".").split()[-1]
    return ((last in words.LIKES) - (last in words.DISLIKES)) * (-1 if " not " in text else 1)


def degree(text: str) -> int:
    return worth(text) * (2 if " very " in text else 1)


RULES: dict[str, Callable[[str], str]] = {
    "MNLI": quantified,
    "RTE": lambda text: str(quantified(text) == "entailment"),
    "CB": reported,
    "QQP": same_question,
    "WiC": same_sense,
    "COPA": cause_or_effect,
    "BoolQA": price,
    "MultiRC": feeling,
    "SST-2": lambda text: {1: "good", -1: "bad"}[worth(text)],
    "IMDB": lambda text: {1: "positive", -1: "negative"}[worth(text)],
    "yelp": lambda text: ["very bad", "bad", "neutral", "good", "very good"][degree(text) + 2],
    "amazon": lambda text: str(degree(text) + 3),
}


@pytest.mark.parametrize("task", RULES)
def test_the_answer_follows_from_the_text(benchmark: dict[str, dict[str, Rows]], task: str) -> None:
    for _, text, _, answer in texts(every(benchmark, task)):
        assert RULES[task](text) == answer, text


def test_imdb_is_not_settled_by_what_comes_first(benchmark: dict[str, dict[str, Rows]]) -> None:
    for _, text, _, answer in texts(every(benchmark, "IMDB")):
        assert (re.findall(r"was (\w+),", text)[0] in words.LIKES) == (answer == "negative")


def test_topics_sort_the_same_words_under_other_names(benchmark: dict[str, dict[str, Rows]]) -> None:
    """A word has one label in each task, and never the same in dbpedia as in yahoo."""
    named: dict[str, dict[str, str]] = {}
    for task in ("dbpedia", "yahoo", "agnews"):
        pattern = {
            "dbpedia": r": (\w+) and (\w+)\.",
            "yahoo": r"has (\w+) to do with (\w+)\?",
            "agnews": r"^(\w+) and (\w+),",
        }
        named[task] = {}
        for _, text, _, answer in texts(every(benchmark, task)):
            for word in re.findall(pattern[task], text)[0]:
                assert named[task].setdefault(word.lower(), answer) == answer, word
    for kind in ("mammal", "bird", "fish", "reptile", "insect", "fruit", "tree", "tool", "metal", "gas"):
        assert {named["dbpedia"][word] for word in words.KINDS[kind] if word in named["dbpedia"]} == {kind}
    both = named["dbpedia"].keys() & named["yahoo"].keys()
    assert len(both) > 50
    assert all(named["dbpedia"][word] != named["yahoo"][word] for word in both)
    assert len(named["yahoo"].keys() & named["agnews"].keys()) > 25


def test_two_rounds(tmp_path: Path) -> None:
    settings = (
        "benchmark.order=[agnews,yahoo]",
        "benchmark.max_train=32",
        "benchmark.max_test=10",
        "benchmark.epochs=1",
    )
    start(compose("benchmark=embedded_long", "strategy=replay", *settings, f"runs_dir={tmp_path}"))
    [matrix] = tmp_path.glob("embedded_long/tiny/replay-*/seed1/matrix.csv")
    assert list(read_matrix(matrix).columns) == ["agnews", "yahoo"]
    assert len(read_matrix(matrix)) == 2
