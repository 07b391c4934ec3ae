"""Why scores fell, on answers written by hand."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from trace_cl.analysis.diagnose import main, recognised
from trace_cl.analysis.forgetting import Cell, cells, references_of, when_learned
from trace_cl.analysis.formats import Formats
from trace_cl.analysis.losses import loss_table
from trace_cl.analysis.page import render, why
from trace_cl.analysis.report import write_report
from trace_cl.analysis.stored import StoredRun

LETTERS = ["A", "B", "C", "A", "B", "C"]
NUMBERS = ["12", "7", "305", "48", "9", "66"]
SENTENCES = ["The cat sat.", "The dog ran.", "The hen ate.", "The cow sat.", "The cat ran.", "The dog ate."]


def line(index: int, prediction: str, reference: str) -> dict[str, object]:
    right = 100.0 if prediction == reference else 0.0
    return {"index": index, "prediction": prediction, "reference": reference, "score": right}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Letters, then sentences, then numbers. After round 3 the letters are three numbers, one nothing, a wrong letter
    and a right one; of the sentences one is another sentence, one a number that was wrong before."""
    tasks = {"letters": LETTERS, "sentences": SENTENCES, "numbers": NUMBERS}
    answers = {
        (1, "letters"): LETTERS,
        (2, "letters"): [*LETTERS[:5], "A"],
        (2, "sentences"): [*SENTENCES[:5], "The cat sat."],
        (3, "letters"): ["4", "5", "61", "  ", "A", "C"],
        (3, "sentences"): [*SENTENCES[:4], "The dog ran.", "8"],
        (3, "numbers"): NUMBERS,
    }
    folder = tmp_path / "mine" / "model" / "seqft" / "seed1"
    matrix = pd.DataFrame(index=pd.Index([1, 2, 3], name="round"), columns=list(tasks), dtype=float)
    for (round, task), given in answers.items():
        lines = [line(i, *pair) for i, pair in enumerate(zip(given, tasks[task], strict=True))]
        path = folder / "predictions" / f"round{round}" / f"{task}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(each) + "\n" for each in lines))
        matrix.loc[round, task] = sum(100 * (a == b) for a, b in zip(given, tasks[task], strict=True)) / 6
    matrix.to_csv(folder / "matrix.csv")
    return folder


def cells_of(folder: Path, untrained: tuple[int, ...] = ()) -> list[Cell]:
    run = StoredRun.at(folder)
    return cells(when_learned(run.tasks, run.predictions), range(2, 4), run.predictions, untrained)


def test_the_cells(run: Path) -> None:
    found = cells_of(run)
    assert [(cell.round, cell.task) for cell in found] == [(2, "letters"), (3, "letters"), (3, "sentences")]
    small, letters, sentences = found
    assert (small.changed, small.empty, small.other) == (1, 0, Counter())
    assert (small.fall, small.of_format, small.of_empty) == pytest.approx((100 / 6, 0, 0))
    assert (letters.answers, letters.changed, letters.empty) == (6, 5, 1)
    assert letters.other == {"numbers": 3}
    assert (letters.fall, letters.of_format, letters.of_empty) == pytest.approx((500 / 6, 300 / 6, 100 / 6))
    # What was wrong before has no part in the fall, whatever it is now.
    assert (sentences.changed, sentences.other) == (2, {"numbers": 1})
    assert (sentences.fall, sentences.of_format) == pytest.approx((100 / 6, 0))
    stored = StoredRun.at(run)
    trust = recognised(references_of(when_learned(stored.tasks, stored.predictions)))
    assert trust == {"letters": 1.0, "sentences": 1.0, "numbers": 1.0}


def test_the_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run)]) == 0
    printed = capsys.readouterr().out
    assert "| letters | 83.3 | 60% | 20% | 5 of 6 | 1 | 3 | numbers (3) | 100% |" in printed
    assert "| sentences | 16.7 | 0% | 0% | 2 of 6 | 0 | 1 | numbers (1) | 100% |" in printed
    assert main([str(run), "--round", "2"]) == 0
    assert "| letters | 16.7 | 0% | 0% | 1 of 6 | 0 | 0 |  | 100% |" in capsys.readouterr().out
    assert main([str(run), "--format", "csv"]) == 0
    assert (
        capsys.readouterr().out.splitlines()[2]
        == "3,letters,6,5,1,3,83.33333333333333,50.0,16.666666666666668,numbers:3,,"
    )


@pytest.mark.parametrize("round", ["1", "4"])
def test_a_round_in_which_nothing_can_be_forgotten_is_refused(
    round: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run), "--round", round]) == 2
    assert f"--round {round} is not between 2 and 3, the last finished one" in capsys.readouterr().err


def test_answers_that_are_missing_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "predictions" / "round3" / "letters.jsonl").unlink()
    assert main([str(run)]) == 2
    assert "round3/letters.jsonl is missing: a diagnosis reads every answer" in capsys.readouterr().err


def test_tasks_of_one_format() -> None:
    formats = Formats({"one": LETTERS, "sums": NUMBERS, "two": ["C", "B", "A"], "counts": ["1", "22", "333"]})
    assert formats.of == {"one": "one", "sums": "sums", "two": "one", "counts": "sums"}
    assert formats.closest(["123456", " B "]) == ["sums", "one"], "which number, and how long, says nothing"


def test_the_probabilities_by_hand() -> None:
    """Of "x" the trigrams are ‹‹x and ‹x›, of "xy" ‹‹x, ‹xy and xy›; four different ones in all."""
    formats = Formats({"a": ["x"], "b": ["xy", "xy"]})
    by_hand = {"a": 0.9 * 1 / 2 + 0.1 / 4, "b": 0.9 * 2 / 6 + 0.1 / 4}
    for name, probability in by_hand.items():
        assert formats.logs[name][gram("\2\2x")] == pytest.approx(math.log(probability))
    assert formats.logs["b"][gram("\2xy")] == pytest.approx(math.log(by_hand["b"]))
    assert formats.logs["a"][gram("\2xy")] == math.log(0.1 / 4)
    assert formats.logs.iloc[-1].tolist() == [math.log(0.1 / 4)] * 2
    assert len(formats.logs) == 4 + 1
    assert formats.closest(["zz", "xy", "x"]) == ["a", "b", "a"]
    assert formats.closest(["zz"], own="b") == ["b"], "what is like nothing is taken for the task's own"


def gram(three: str) -> int:
    """A trigram as the number of 63 bits that is made of its characters."""
    first, second, third = map(ord, three)
    return (first * 2**21 + second) * 2**21 + third


def test_many_texts_at_once_are_what_each_is_alone() -> None:
    formats = Formats({"one": LETTERS, "sums": NUMBERS, "texts": SENTENCES})
    texts = ["", "A", "The cat ate 3", "它的温度最低。", "\U0001f600\U0001f600", "7\n8", *SENTENCES, *NUMBERS]
    assert formats.closest(texts) == [formats.closest([text])[0] for text in texts]
    for text in texts:
        marked = f"\2\2{re.sub('[0-9]+', '0', text)}\3"
        by_hand = {
            name: sum(
                formats.logs[name].get(gram(marked[at : at + 3]), formats.logs[name].iloc[-1])
                for at in range(len(marked) - 2)
            )
            for name in formats.logs
        }
        assert formats.closest([text]) == [max(by_hand, key=lambda name: by_hand[name])]


def test_the_embedded_benchmarks_formats_are_told_apart() -> None:
    from trace_cl.data.embedded import generate

    data = {task: splits["test"] for task, splits in generate().items() if task != "Lima"}
    formats = Formats({task: [row["answer"] for row in rows] for task, rows in data.items()})
    assert formats.of["FOMC"] == "C-STANCE"
    assert formats.of["NumGLUE-ds"] == "NumGLUE-cm"
    assert len(set(formats.of.values())) == 6
    for task, splits in generate().items():
        if task != "Lima":
            unseen = formats.closest([row["answer"] for row in splits["eval"]])
            assert unseen.count(formats.of[task]) >= 0.95 * len(unseen)


def test_of_a_task_that_was_not_learned_in_its_round_nothing_is_said(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [(cell.round, cell.task) for cell in cells_of(run, untrained=(1,))] == [(3, "sentences")]
    (run / "summary.json").write_text(json.dumps({"untrained_rounds": [1, 2]}))
    assert main([str(run)]) == 2
    assert "had learned nothing before round 3: nothing can be forgotten" in capsys.readouterr().err


def test_answers_to_other_examples_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "predictions" / "round3" / "letters.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert main([str(run)]) == 2
    assert "the answers to letters of round 3 are not to its own round's examples" in capsys.readouterr().err


def write_losses(run: Path, *losses: dict[str, float | None]) -> None:
    for t, of_round in enumerate(losses):
        path = run / "rounds" / f"round{t}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"reference_loss": of_round}))


LOSSES: tuple[dict[str, float | None], ...] = (
    {"letters": 2.0, "sentences": 3.0, "numbers": 1.0},
    {"letters": 0.5},
    {"letters": 0.75, "sentences": 0.25},
    {"letters": 4.0, "sentences": None, "numbers": 0.125},
)


def test_the_losses_stand_beside_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_losses(run, *LOSSES)
    assert main([str(run)]) == 0
    printed = capsys.readouterr().out
    assert "| recognised | loss when learned | loss now |" in printed
    assert "| numbers (3) | 100% | 0.500 | 4.000 |" in printed
    assert "| numbers (1) | 100% | 0.250 | – |" in printed
    assert main([str(run), "--format", "csv"]) == 0
    assert [line.rsplit(",", 2)[1:] for line in capsys.readouterr().out.splitlines()] == [
        *(["loss_when_learned", "loss_now"], ["0.5", "0.75"], ["0.5", "4.0"], ["0.25", ""])
    ]
    write_losses(run, {}, {"letters": -1.0})
    assert main([str(run)]) == 2
    assert "rounds/round1.json is damaged (its reference_loss is none)" in capsys.readouterr().err


def test_a_loss_that_has_risen_before_the_score_fell_is_marked() -> None:
    rows = [[80.0], [79.5, 60.0], [79.0, 65.0, 90.0]]
    losses = [{}, {"a": 0.5}, {"a": 0.6, "b": 0.25}, {"a": 0.7, "b": 0.2, "c": 0.1}]
    frame = loss_table(losses, rows, ["a", "b", "c", "d"], [])
    assert list(frame) == ["1", "2", "3"], "the base model was not measured"
    assert list(frame.loc["a"]) == ["0.500", "0.600*", "0.700"], "in round 3 the score has fallen by a point"
    assert list(frame.loc["b"]) == ["", "0.250", "0.200"]
    assert list(frame.index) == ["a", "b", "c"]
    assert list(loss_table(losses, rows, ["a", "b", "c", "d"], [1]).loc["a"]) == ["0.500", "0.600", "0.700"]
    assert loss_table([{}, {}], rows[:1], ["a"], []).empty


def report_of(run: Path) -> str:
    """The report of a run's last round, written while its matrix has not the newest row yet."""
    stored = StoredRun.at(run)
    rows, tasks, records = stored.rows, stored.tasks, [stored.record(t) for t in (0, 1, 2, 3)]
    about = {"benchmark": "b", "model": "m", "seed": 1, "variant": "standard", "complete": True, "zero_shot": {}}
    trained = {
        **{"trainable_share": 0.0, "optimizer_steps": 0, "tokens": 0, "final_loss": 0.5, "task": "a", "phases": ["a"]},
        **{"seconds": 0.0, "evaluation_seconds": 1.0, "strategy": {}},
    }
    base, *rounds = [{**trained, **record, "round": t} for t, record in enumerate(records)]
    write_report(run, rows, tasks, rounds, about, base)
    return (run / "report.md").read_text()


def test_the_report_says_what_was_forgotten_with_the_format(run: Path) -> None:
    without = report_of(run)
    assert "| task | base model | learned | at the end | forgotten | by format | by empty | changed |" in without
    assert "| letters |  | 100.0 | 16.7 | 83.3 | 60% | 20% | 5 of 6 |" in without
    assert "| numbers |  | 100.0 | 100.0 | 0.0 |  |  |  |" in without
    assert "By format, by empty: how much" in without
    assert "Loss of the references" not in without
    write_losses(run, *LOSSES)
    text = report_of(run)
    assert "| task \\ round | 0 | 1 | 2 | 3 |\n| --- | ---: | ---: | ---: | ---: |\n| letters | 2.000 | 0.500 |" in text
    assert "| sentences | 3.000 |  | 0.250 | – |" in text
    # A run does not fail for answers that somebody has altered, or thrown away.
    (run / "predictions" / "round3" / "letters.jsonl").write_text("{")
    assert "| letters |  | 100.0 | 16.7 | 83.3 |\n" in report_of(run)
    (run / "predictions" / "round3" / "letters.jsonl").unlink()
    partly = report_of(run)
    assert "| letters |  | 100.0 | 16.7 | 83.3 |  |  |  |" in partly
    assert "| sentences |  | 83.3 | 66.7 | 16.7 | 0% | 0% | 2 of 6 |" in partly


def test_the_page_says_it_too(run: Path) -> None:
    known = why(StoredRun.at(run))
    assert list(known) == ["Learned and forgotten"]
    assert known["Learned and forgotten"][1] == [*("letters", "", "100.0", "16.7", "83.3", "60%", "20%", "5 of 6")]
    write_losses(run, *LOSSES)
    _, losses = why(StoredRun.at(run)).values()
    assert losses[1] == ["letters", "2.000", "0.500", "0.750", "4.000"]
    page = render([StoredRun.at(run)], 10)
    assert "<td>60%</td><td>20%</td><td>5 of 6</td>" in page
    assert "<td>2.000</td><td>0.500</td><td>0.750</td><td>4.000</td>" in page
    for kept in run.glob("predictions/*/*.jsonl"):
        kept.unlink()
    write_losses(run, {}, {})
    shutil.rmtree(run / "rounds")
    assert why(StoredRun.at(run)) == {}
    assert "What was forgotten" not in render([StoredRun.at(run)], 10)


def test_whoever_stops_reading_is_shown_no_traceback(run: Path) -> None:
    """`… | head -1` closes the pipe: before anything is written, so that it surely is; what is written waits in a
    buffer until the end."""
    command = [sys.executable, "-m", "trace_cl.diagnose", str(run)]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        said = process.communicate()[1]
    assert said == b""
    assert process.returncode == 128 + signal.SIGPIPE
