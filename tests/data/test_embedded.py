"""The embedded benchmark: the same bytes everywhere, splits apart, classes balanced, and answers that are right."""

import ast
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from itertools import combinations

import pytest

from trace_cl.data.embedded import c_stance, fomc, generate
from trace_cl.draw import Draw

Benchmark = dict[str, dict[str, list[dict[str, str]]]]

TASKS = ("C-STANCE", "FOMC", "MeetingBank", "Py150", "ScienceQA", "NumGLUE-cm", "NumGLUE-ds", "20Minuten")
SHA256 = "d417e549617b70a8c09707a85bfba7a94a92cc281fd17fa2c5b37d73a1d3560f"


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return generate()


def rows(benchmark: Benchmark, task: str) -> list[dict[str, str]]:
    return [row for split in benchmark[task].values() for row in split]


def test_same_bytes_on_every_machine(benchmark: Benchmark) -> None:
    written = json.dumps(benchmark, ensure_ascii=False).encode()
    assert hashlib.sha256(written).hexdigest() == SHA256
    assert generate() == benchmark


def test_tasks_and_sizes(benchmark: Benchmark) -> None:
    assert tuple(benchmark) == (*TASKS, "Lima")
    for splits in benchmark.values():
        assert list(splits) == ["train", "eval", "test"]
        assert len(splits["train"]) >= 100
        assert len(splits["eval"]) == 40
        assert len(splits["test"]) == 50
        for split in splits.values():
            assert all(set(row) == {"prompt", "answer"} and row["prompt"].strip() and row["answer"] for row in split)


@pytest.mark.parametrize("task", [*TASKS, "Lima"])
def test_no_prompt_comes_twice(benchmark: Benchmark, task: str) -> None:
    prompts = [row["prompt"] for row in rows(benchmark, task)]
    assert len(set(prompts)) == len(prompts)
    for one, other in combinations(benchmark[task].values(), 2):
        assert not {row["prompt"] for row in one} & {row["prompt"] for row in other}


@pytest.mark.parametrize("task", ["C-STANCE", "FOMC", "ScienceQA"])
def test_letters_are_balanced(benchmark: Benchmark, task: str) -> None:
    for split in benchmark[task].values():
        letters = Counter(row["answer"][0] for row in split)
        assert set(letters) == set("ABC")
        assert max(letters.values()) <= 0.5 * len(split)


def test_draw_is_uniform_and_without_repeats() -> None:
    draw = Draw(7)
    counts = Counter(draw.between(1, 4) for _ in range(4000))
    assert set(counts) == {1, 2, 3, 4}
    assert min(counts.values()) > 850
    assert sorted(draw.some(range(9), 9)) == list(range(9))


def stance(clause: str) -> str:
    """The stance of one Chinese clause, by its opinion words rather than by its template."""
    if "谁说" in clause:
        clause = clause.split("其实")[1]
    good = any(word in clause for word in c_stance._GOOD)
    bad = any(word in clause for word in c_stance._BAD)
    if not good and not bad:
        return "C"
    return "A" if good != ("一点也不" in clause) else "B"


def test_c_stance_follows_the_target(benchmark: Benchmark) -> None:
    for row in rows(benchmark, "C-STANCE"):
        text, target = re.search(r"文本：\n(.*)\n对象：\n(.*)\n态度：", row["prompt"]).groups()  # type: ignore[union-attr]
        (said,) = [part for part in re.split("。|，不过|；另外", text) if target in part]
        assert stance(said) == row["answer"], row


def tone(clause: str) -> int:
    """+1 hawkish, -1 dovish, 0 neither."""
    if "policy rate" in clause:
        sign = 1 if "raise" in clause else -1
        return -sign if "no case" in clause else sign
    clause = clause.split(" despite ")[0]
    hot = any(subject in clause for subject in fomc._HOT)
    way = any(f" {verb}" in clause for verb in fomc._UP) - any(f" {verb}" in clause for verb in fomc._DOWN)
    return way if hot else -way


def test_fomc_adds_up(benchmark: Benchmark) -> None:
    for row in rows(benchmark, "FOMC"):
        text = row["prompt"].split("Text:\n")[1]
        assert "BCA"[1 - sum(tone(clause) for clause in text.split(" while "))] == row["answer"], row


def test_meetingbank_summary_is_in_the_transcript(benchmark: Benchmark) -> None:
    for row in rows(benchmark, "MeetingBank"):
        pattern = r"(.+ \d+) on (.+), moved by (\w+), was (passed|rejected|postponed)(?: to (\w+))?\."
        item, subject, mover, outcome, day = re.fullmatch(pattern, row["answer"]).groups()  # type: ignore[union-attr]
        assert f" is {item}, about {subject}." in row["prompt"]
        assert re.search(rf"Moved by {mover},|{mover} moves it", row["prompt"])
        sign = {"passed": "carries", "rejected": "fails", "postponed": f"hold it until {day}."}[outcome]
        assert sign in row["prompt"]


def test_py150_is_python(benchmark: Benchmark) -> None:
    for row in rows(benchmark, "Py150"):
        assert row["prompt"].startswith("<s> ")
        assert row["prompt"].endswith(" <EOL>")
        assert "\n" not in row["answer"]
        assert "<EOL>" not in row["answer"]
        line = re.sub(r"<(STR|NUM)_LIT(?::(\w+))?>", lambda found: found[2] or "0", row["answer"])
        ast.parse(line.replace("return ", ""))


def test_scienceqa_reason_fits_the_choice(benchmark: Benchmark) -> None:
    for row in rows(benchmark, "ScienceQA"):
        letter, reason = row["answer"].split("\n")
        choices = dict(re.findall(r"^([ABC])\. (.*)$", row["prompt"], re.MULTILINE))
        if "speed" in row["prompt"] or "thermal" in row["prompt"]:
            pick = max if re.search("highest|most", row["prompt"]) else min
            sizes = {mark: int(re.search(r"\d+", choice)[0]) for mark, choice in choices.items()}  # type: ignore[index]
            assert sizes[letter] == pick(sizes.values())
            assert str(sizes[letter]) in reason
        else:
            (thing,) = re.findall(r"What is (\w+)\?", row["prompt"])
            assert reason.lower() == f"{thing} is {choices[letter]}."


# Every question of the two arithmetic tasks, by a telling phrase, and what its numbers come to.
SUMS: dict[str, Callable[..., float]] = {
    "weeks and": lambda a, b: 7 * a + b,
    "in the afternoon": lambda a, b: b - a,
    "with a dollar": lambda a: 100 - a,
    "days are": lambda a: 7 * a,
    "months pass": lambda a: 12 * a,
    "spiders": lambda a: 8 * a,
    "cats": lambda a: 4 * a,
    "tricycles": lambda a: 3 * a,
    "nickels": lambda a: 5 * a,
    "dimes": lambda a: 10 * a,
    "dozen": lambda a: 12 * a,
    "triangles": lambda a: 3 * a,
    "beetles": lambda a: 6 * a,
    "How far": lambda a, b: a * b,
    "its speed": lambda a, b: a / b,
    "density": lambda a, b: a / b,
    "voltage": lambda a, b: a * b,
    "force": lambda a, b: a * b,
    "kelvin": lambda a: a + 273,
    "on combining": min,
    "O2 are needed": lambda a: a / 2,
    "O2 react": lambda a: 2 * a,
}


@pytest.mark.parametrize("task", ["NumGLUE-cm", "NumGLUE-ds"])
def test_arithmetic_is_right(benchmark: Benchmark, task: str) -> None:
    for row in rows(benchmark, task):
        question = row["prompt"].split("Question:\n")[1]
        (compute,) = [compute for phrase, compute in SUMS.items() if phrase in question]
        numbers = [int(number) for number in re.findall(r"(?<![A-Za-z\d])\d+", question)]
        assert compute(*numbers) == int(row["answer"]), row


def test_20minuten_keeps_day_and_place(benchmark: Benchmark) -> None:
    for row in rows(benchmark, "20Minuten"):
        day, place = re.search(r"Am (\w+) ist in (\w+) ", row["prompt"]).groups()  # type: ignore[union-attr]
        assert f"Das war am {day} in {place}." in row["answer"]
        assert len(row["answer"]) < len(row["prompt"].split("Paragraph:\n")[1])
