"""The page of all runs: what stands on it against what the runs left, and that whatever a model said stays text."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from trace_cl.analysis.page import colour, main
from trace_cl.records.files import PUBLISHED
from trace_cl.records.journal import Journal, Standing
from trace_cl.records.predictions import Prediction

VOID = {"meta", "br", "img", "input", "link"}


class Page(HTMLParser):
    """A page taken apart: every tag closed by its own end tag; tables' texts by run; what the scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.references: list[str] = []
        self.run = self.script = ""
        self.runs: dict[str, list[list[str]]] = {}
        self.cells: dict[str, list[tuple[int, int]]] = {}
        self.answers: dict[str, str] = {}
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.tags.add(tag)
        self.references += [values[name] for name in ("src", "href", "action", "data", "srcset") if name in values]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.run = values.get("data-name", "")
        if tag == "tr":
            self.runs.setdefault(self.run, []).append([])
        if tag in ("td", "th"):
            self.runs[self.run][-1].append("")
        if tag == "button" and "data-task" in values:
            self.cells.setdefault(self.run, []).append((int(values["data-task"]), int(values["data-round"])))
        self.script = values.get("id", "") if tag == "script" else ""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.script = ""

    def handle_data(self, data: str) -> None:
        if self.script:
            self.answers[self.script.removeprefix("answers-")] = data
        elif {"td", "th"} & set(self.open):
            self.runs[self.run][-1][-1] += data.strip()
        self.text += data


def page_of(runs: Path, *arguments: str) -> Page:
    assert main(["--runs", str(runs), *arguments]) == 0
    return Page((runs / "report.html").read_text(encoding="utf-8"))


def one_decimal(values: list[float]) -> list[str]:
    return [f"{value:z.1f}" for value in values]


def write_run(folder: Path, answers: dict[int, list[str]], rounds: int = 2) -> None:
    """A run of two tasks whose examples' scores are 40, 40, … in the first round and 20, 20, … in the second."""
    journal, standing = Journal(folder, ["a", "b"]), Standing()
    for t in range(1, rounds + 1):
        score = {1: 40.0, 2: 20.0}[t]
        for task in journal.tasks[:t]:
            scores = {"standard": score, "trace_compat": 0.0}
            predictions = [Prediction(7 + i, text, f"right {task}", scores) for i, text in enumerate(answers[t])]
            journal.write_predictions(t, task, predictions, "standard")
        record = {"round": t, "phases": ["a"], "scores": {"standard": dict.fromkeys(journal.tasks[:t], score)}}
        standing = Standing(rounds=(*standing.rounds, record))
        journal.finish_round(standing)
    journal.write_summary({"zero_shot": {}})


def test_a_real_run_stands_there_with_every_figure_and_every_answer(run: Callable[..., Path]) -> None:
    folder = run()
    page = page_of(folder.parents[3])
    name = "/".join(folder.parts[-4:])
    summary = json.loads((folder / "summary.json").read_text())
    header, *tasks, op, bwt, learned = page.runs[name][:7]
    forgotten, losses, definitions = page.runs[name][7:11], page.runs[name][11:15], page.runs[name][15:]
    assert definitions[0] == ["figure", "value", "95% interval", "definition"]
    assert [row[0] for row in definitions[1:]] == [*("OP", "BWT", "learned", "mean OP", "BWT, t−1", "forgetting")]
    assert forgotten[0][-3:] == ["by format", "by empty", "changed"]
    assert [row[0] for row in losses] == ["task \\ round", *summary["tasks"]]
    assert header[1:] == ["0", "1", "2", "3"]
    assert op == ["OP", "", *one_decimal(summary["OP"])]
    assert bwt == ["BWT", "", *one_decimal(summary["BWT"])]
    assert learned == ["learned", "", *one_decimal(summary["learned"])]
    matrix = [line.split(",")[1:] for line in (folder / "matrix.csv").read_text().splitlines()[1:]]
    for i, (row, task) in enumerate(zip(tasks, summary["tasks"], strict=True)):
        column = [line[i] for line in matrix]
        assert row == [task, f"{summary['zero_shot'][task]:.1f}", *(f"{float(v):.1f}" if v else "" for v in column)]

    said = json.loads(page.answers[name])
    assert len(page.cells[name]) == 3 + 6, "a button for each task's score before training, and for each cell"
    for i, t in page.cells[name]:
        task = said["tasks"][i]
        lines = [json.loads(x) for x in (folder / f"predictions/round{t}/{task['name']}.jsonl").open()]
        assert task["total"] == len(lines) == 4
        assert task["index"] == [line["index"] for line in lines]
        assert [said["texts"][x] for x in task["reference"]] == [line["reference"] for line in lines]
        assert [said["texts"][x] for x in task["rounds"][str(t)]["text"]] == [line["prediction"] for line in lines]
        assert task["rounds"][str(t)]["score"] == pytest.approx([line["score"] for line in lines], abs=0.05)


def test_the_published_runs_are_there_and_marked(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    folders = [path.parent for path in PUBLISHED.glob("*/*/summary.json")]
    assert len(folders) == 19
    for folder in folders:
        summary = json.loads((folder / "summary.json").read_text())
        op, bwt, learned, *others = page.runs[f"trace/{folder.parent.name}/{folder.name}/published"][9:]
        assert [row[0] for row in others] == ["figure", "mean OP", "BWT, t−1", "forgetting"], "which nobody printed"
        assert all(row[1].endswith("†") for row in others[1:])
        assert op[1:] == one_decimal(summary["printed"]["OP"])
        assert bwt[-1] == f"{summary['printed']['BWT']:.1f}"
        assert [float(text.removesuffix("†")) for text in bwt[1:]] == pytest.approx(summary["BWT"], abs=0.051)
        assert all(text.endswith("†") for text in bwt[1:-1]), "the paper prints the last one"
        assert all(text.endswith("†") for text in learned[1:]), "the paper does not print it"
        assert summary["source"] in page.text
    assert page.text.index("llama2-chat-7b on trace") < page.text.index("llama2-chat-13b on trace")


def test_seeds_are_summed_up_and_unfinished_runs_left_out(tmp_path: Path) -> None:
    for seed in (2, 10):
        write_run(tmp_path / "embedded" / "tiny" / "gem" / f"seed{seed}", {1: ["x"], 2: ["x"]})
    write_run(tmp_path / "embedded" / "tiny" / "gem" / "seed11", {1: ["x"]}, rounds=1)
    page = page_of(tmp_path)
    [line] = [row for row in page.runs[""] if row[0] == "gem" and "published" not in row]
    # OP: the mean of the last row, 20 and 20; BWT: half of 20 − 40; learned: the mean of 40 and 20.
    assert line == ["gem", "21011*", "20.0 ± 0.0", "-10.0 ± 0.0", "30.0 ± 0.0"]
    assert "unfinished: 1 of 2 rounds" in page.text


def test_who_is_told_the_task_is_marked(tmp_path: Path) -> None:
    for method, told in (("gem", False), ("prompts", True)):
        folder = tmp_path / "embedded" / "tiny" / method / "seed1"
        write_run(folder, {1: ["x"], 2: ["x"]})
        (folder / "summary.json").write_text(json.dumps({"needs_task_id": told}))
    page = page_of(tmp_path)
    ours = [row[0] for row in page.runs[""] if "published" not in row]
    assert "gem" in ours
    assert "promptstask identity" in ours
    assert page.text.count("this method has to be told which task a text belongs to") == 1
    assert page.text.count("this method is not told which task a text belongs to") == 1


HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "<!-- <script>",
    "a & b &lt; \"c\" 'd' \\",
    "{{ 7 * 7 }}{% raw %}",
    "two\nlines\r\n\ttab \u2028 \x00",
    "它的温度最低。",
    "",
]


def test_what_a_model_said_stays_text(tmp_path: Path) -> None:
    write_run(tmp_path / "embedded" / "<u>&'\"" / "gem" / "seed1", {1: HOSTILE, 2: HOSTILE})
    page = page_of(tmp_path)
    said = json.loads(page.answers["embedded/<u>&'\"/gem/seed1"])
    for task in said["tasks"]:
        for round in task["rounds"].values():
            assert [said["texts"][x] for x in round["text"]] == HOSTILE
    assert not {"img", "u"} & page.tags
    assert "它的温度最低。" in (tmp_path / "report.html").read_text(encoding="utf-8"), "not as escapes"


def test_whatever_a_run_is_of_stays_text(tmp_path: Path) -> None:
    """Benchmark, model, method, tasks and prompts, each with what would end a tag, an attribute or a script."""
    hostile = """<script>alert("1")&'"""
    folder = tmp_path / f"b{hostile}" / f"m{hostile}" / f"x{hostile}" / "seed1"
    tasks = [f"a{hostile}", f"b{hostile}"]
    journal, standing = Journal(folder, tasks), Standing()
    for t, score in ((1, 40.0), (2, 20.0)):
        for task in tasks[:t]:
            scores = {"standard": 40.0, "trace_compat": 0.0}
            journal.write_predictions(t, task, [Prediction(7, hostile, hostile, scores)], "standard")
            journal.write_prompts(task, [7], ["</script>" + hostile])
        record = {"round": t, "phases": ["a"], "scores": {"standard": dict.fromkeys(tasks[:t], score)}}
        standing = Standing(rounds=(*standing.rounds, record))
        journal.finish_round(standing)
    journal.write_summary({"zero_shot": {}, "source": hostile})
    page = page_of(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("<script") == 3, "the answers, the prompts, and the page's own"
    assert 'alert("1")' not in text
    name = "/".join(folder.parts[-4:])
    assert [row[0] for row in page.runs[name]][1:3] == tasks
    said = json.loads(page.answers[name])
    assert [task["name"] for task in said["tasks"]] == tasks
    assert said["texts"] == [hostile]
    assert json.loads(page.answers["prompts"]) == ["</script>" + hostile]


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    write_run(tmp_path / "embedded" / "tiny" / "gem" / "seed1", {1: ["x"], 2: ["x"]})
    page = page_of(tmp_path)
    ids = set(re.findall(r' id="([^"]*)"', (tmp_path / "report.html").read_text()))
    assert len(page.references) == 20, "one link a run"
    assert {reference.replace("%2B", "+") for reference in page.references} <= {f"#{id}" for id in ids}
    text = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?:|url\(|@import|\bimport\b|fetch\(", text)


def test_only_so_many_answers_of_a_cell(tmp_path: Path) -> None:
    write_run(tmp_path / "embedded" / "tiny" / "gem" / "seed1", {1: ["x", "y", "z"], 2: ["x", "y", "z"]})
    said = json.loads(page_of(tmp_path, "--examples", "2").answers["embedded/tiny/gem/seed1"])
    assert said == {
        "texts": ["right a", "x", "y", "right b"],
        "tasks": [
            {
                "name": "a",
                "total": 3,
                "index": [7, 8],
                "reference": [0, 0],
                "rounds": {"1": {"text": [1, 2], "score": [40.0, 40.0]}, "2": {"text": [1, 2], "score": [20.0, 20.0]}},
            },
            {
                "name": "b",
                "total": 3,
                "index": [7, 8],
                "reference": [3, 3],
                "rounds": {"2": {"text": [1, 2], "score": [20.0, 20.0]}},
            },
        ],
    }


def test_prompts_are_there_once_for_all_runs(tmp_path: Path) -> None:
    folders = [tmp_path / "embedded" / "tiny" / "gem" / f"seed{seed}" for seed in (1, 2)]
    for folder in folders:
        write_run(folder, {1: HOSTILE, 2: HOSTILE})
        journal = Journal(folder, ["a", "b"])
        for text in ("What is {}? ", "something else, too late "):
            journal.write_prompts("a", range(7, 7 + len(HOSTILE)), [text + line for line in HOSTILE])
    page = page_of(tmp_path)
    prompts = json.loads(page.answers["prompts"])
    assert prompts == ["What is {}? " + text for text in HOSTILE]
    for folder in folders:
        a, b = json.loads(page.answers[f"embedded/tiny/gem/{folder.name}"])["tasks"]
        assert a["prompt"] == list(range(len(HOSTILE)))
        assert "prompt" not in b, "as in runs that kept none"


def test_answers_that_were_thrown_away_leave_the_matrix(tmp_path: Path) -> None:
    folder = tmp_path / "embedded" / "tiny" / "gem" / "seed1"
    write_run(folder, {1: ["x"], 2: ["x"]})
    for file in folder.glob("predictions/*/*.jsonl"):
        file.unlink()
    page = page_of(tmp_path)
    assert page.runs["embedded/tiny/gem/seed1"][1] == ["a", "40.0", "20.0"]
    assert not page.cells


def luminance(colour: str) -> float:
    """Relative luminance of a #rrggbb or #rgb colour (WCAG 2.2)."""
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("score", [0, 12.5, 40, 46.9, 47, 50, 60, 80, 99.99, 100])
def test_a_figure_can_be_read_on_its_colour(score: float) -> None:
    dark, light = sorted(luminance(code) for code in re.findall(r"#(\w+)", colour(score)))
    assert (light + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "there is no folder"), ("{", "gem/seed1/summary.json is damaged")],
)
def test_what_cannot_be_read_is_one_sentence(
    content: str | None, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    if content is not None:
        folder = runs / "embedded" / "tiny" / "gem" / "seed1"
        write_run(folder, {1: ["x"], 2: ["x"]})
        (folder / "summary.json").write_text(content)
    assert main(["--runs", str(runs)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert error.count("\n") == 1
