"""The one reader of runs: names, order, and what is damaged."""

import json
import re
from pathlib import Path

import pytest

from trace_cl.analysis.stored import StoredRun, by_method, find, find_published, method_order
from trace_cl.errors import UserError
from trace_cl.records.files import PUBLISHED

FILES = {
    "matrix.csv": "round,a,b\n1,80.5,\n2,40,60\n",
    "config.yaml": "benchmark:\n  name: mine\nseed: 3\n",
    "summary.json": '{"zero_shot": {"a": 1.0}}',
    "rounds/round1.json": '{"round": 1}',
    "predictions/round2/a.jsonl": '{"index": 5, "prediction": "x\u2028y", "reference": "z", "score": 40.0}\n',
    "prompts/a.jsonl": '{"index": 5, "prompt": "why?"}\n',
}

ANSWER = {"index": 5, "prediction": "x", "reference": "z", "score": 40.0}


def stored(folder: Path, **changes: str) -> StoredRun:
    for name, content in {**FILES, **changes}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return StoredRun.at(folder)


def test_a_run_of_ours(tmp_path: Path) -> None:
    run = stored(tmp_path / "mine" / "qwen" / "gem+hft" / "seed3")
    assert (run.benchmark, run.model, run.method, run.seed) == ("mine", "qwen", "gem+hft", "3")
    assert (run.name, run.published, run.complete) == ("mine/qwen/gem+hft/seed3", False, True)
    assert run.rows == [[80.5], [40, 60]]
    assert run.scores("a") == {0: 1, 1: 80.5, 2: 40}
    assert run.scores("b") == {2: 60}
    assert run.figures == {"OP": [80.5, 50], "BWT": [0, -20.25], "learned": [80.5, 70.25]}
    assert (run.config["benchmark.name"], run.config["seed"]) == ("mine", 3)
    assert run.config["training.eps"] == 1e-8, "a key that came later has its default"
    assert run.record(1) == {"round": 1}
    assert run.predictions(2, "a")[0]["prediction"] == "x\u2028y"
    assert run.prompts("a") == {5: "why?"}
    assert (run.record(2), run.predictions(1, "a"), run.prompts("b"), run.printed) == ({}, [], {}, {})


def test_a_published_run_by_whatever_path_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(PUBLISHED / "llama2-chat-7b" / "gem")
    for folder in (PUBLISHED / "llama2-chat-7b" / "gem", tmp_path / "link"):
        run = StoredRun.at(folder)
        assert (run.name, run.published) == ("trace/llama2-chat-7b/gem/published", True)
        assert run.printed == {
            "OP": [50.0, 59.2, 52.6, 51.1, 38.5, 48.9, 44.6, 48.2],
            "BWT": [None, None, None, None, None, None, None, -7.9],
        }
        assert (run.text("OP", 8), run.text("BWT", 7)) == ("48.2", "-13.6†")
        assert not run.config


def test_a_run_found_under_its_folder_is_the_one_read_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(tmp_path / "runs" / "mine" / "qwen" / "gem" / "seed3")
    monkeypatch.chdir(tmp_path / "runs" / "mine" / "qwen" / "gem" / "seed3")
    [found] = find(tmp_path / "runs")
    assert found.name == StoredRun.at(Path()).name == StoredRun.at(Path("../seed3")).name == "mine/qwen/gem/seed3"


def test_the_one_order_of_methods() -> None:
    methods = ["seqft", "seqft+hft", "seqft+hft-2x1", "seqft+hft-2x10", "seqft+hft-layer", "gem", "gem+hft", "replay"]
    methods += ["lora_seqft", "ewc", "ewc+hft", "lwf"]
    assert sorted({*methods}, key=method_order) == methods


def test_runs_are_in_order_and_by_method(tmp_path: Path) -> None:
    for name in ("b/7b/gem/seed10", "b/7b/gem/seed2", "b/7b/seqft/seed1", "b/13b/seqft/seed1", "a/7b/seqft/seed1"):
        stored(tmp_path / name, **{"config.yaml": f"seed: {name.partition('seed')[2]}\n"})
    names = [[run.name for run in group] for group in by_method(find(tmp_path))]
    assert names == [
        ["a/7b/seqft/seed1"],
        ["b/7b/seqft/seed1"],
        ["b/7b/gem/seed2", "b/7b/gem/seed10"],
        ["b/13b/seqft/seed1"],
    ]
    assert len(find_published()) == 19
    assert [run.method for run in find_published("llama2-chat-13b")][:3] == ["seqft", "seqft+hft", "gem"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("matrix.csv", "", "its header is not round and the names of different tasks"),
        ("matrix.csv", "task,a\n1,5\n", "round"),
        ("matrix.csv", "round,a,b\n", "its rounds are not 1, 2, …"),
        ("matrix.csv", "round,a,b\n2,5,\n", "its rounds are not 1, 2, …"),
        ("matrix.csv", "round,a\n1,5\n2,5\n", "its rounds are not 1, 2, … up to the number of tasks"),
        ("matrix.csv", "round,a,b\n1,5,\n3,5,5\n", "its rounds are not 1, 2, …"),
        ("matrix.csv", "round,a,a\n1,5,\n2,5,5\n", "the names of different tasks"),
        ("matrix.csv", "round,a,../x\n1,5,\n2,5,5\n", "the names of different tasks"),
        ("matrix.csv", "round,a,b\n1,5,\n2,,5\n", "round 2: '' is no score from 0 to 100"),
        ("matrix.csv", "round,a,b\n1,5,\n2,5,5,5,5\n", "round 2 has not a score for each"),
        ("matrix.csv", "round,a,b\n1,5,\n2,5\n", "round 2 has not a score for each"),
        ("matrix.csv", "round,a,b,c\n1,5,7,\n2,5,5,\n", "round 1 has not a score for each"),
        *(
            ("matrix.csv", f"round,a,b\n1,{cell},\n", "is no score from 0 to 100")
            for cell in ("high", "900", "-5", "nan", "inf", "9" * 400, "1_0")
        ),
        ("config.yaml", "a: [", "while parsing"),
        ("config.yaml", "", "it holds no settings"),
        ("config.yaml", "- a\n", "it holds no settings"),
        ("config.yaml", "benchmark: ${", "no viable alternative"),
        ("config.yaml", '"\\ud800": 1', "surrogates not allowed"),
        ("summary.json", "{", "Expecting property name"),
        ("summary.json", "[1]", "it holds no object"),
        ("summary.json", "[" * 100_000, "recursion"),
        ("summary.json", '{"zero_shot": {"a": NaN}}', "NaN is no number"),
        ("summary.json", '{"zero_shot": {"a": 1e999}}', "its zero_shot is none"),
        ("summary.json", '{"zero_shot": ["a"]}', "its zero_shot is none"),
        ("summary.json", '{"untrained_rounds": [3]}', "its untrained_rounds is none"),
        ("summary.json", '{"untrained_rounds": [[]]}', "its untrained_rounds is none"),
        ("summary.json", '{"method": 3}', "its method is none"),
        ("summary.json", '{"needs_task_id": 1}', "its needs_task_id is none"),
        ("summary.json", '{"seconds": {"training": "3"}}', "its seconds is none"),
        ("summary.json", '{"seconds": [3]}', "its seconds is none"),
        ("rounds/round1.json", "\x00", "Expecting value"),
        ("rounds/round1.json", '{"extra_bytes": {"device": true}}', "its extra_bytes is none"),
        ("rounds/round1.json", '{"extra_bytes": 3}', "its extra_bytes is none"),
        ("predictions/round2/a.jsonl", '{"index": 5}\n', "line 1 has no prediction"),
        ("predictions/round2/a.jsonl", '{"index": 5', "line 1: Expecting"),
        ("predictions/round2/a.jsonl", "[]\n", "line 1: it holds no object"),
        *(
            ("predictions/round2/a.jsonl", json.dumps({**ANSWER, key: value}) + "\n", f"line 1: its {key} is none")
            for key, values in {
                "index": ("5", True, -1, 2**60, None),
                "prediction": (None, 3, ["x"]),
                "reference": (None,),
                "score": ("40", -1, 900, None, True),
            }.items()
            for value in values
        ),
        ("predictions/round2/a.jsonl", json.dumps({**ANSWER, "prediction": "\ud800"}), "surrogates not allowed"),
        ("prompts/a.jsonl", '{"index": 5}\n', "line 1 has no prompt"),
        ("prompts/a.jsonl", '{"index": 5, "prompt": 6}\n', "line 1: its prompt is none"),
    ],
)
def test_a_damaged_file_is_named_in_one_sentence(name: str, content: str, reason: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "qwen" / "gem" / "seed3"

    def read_everything() -> object:
        run = stored(folder, **{name: content})
        return run.config, run.summary, run.record(1), run.predictions(2, "a"), run.prompts("a")

    with pytest.raises(UserError) as caught:
        read_everything()
    assert re.fullmatch(rf"{re.escape(str(folder / name))} is damaged \(.*\): move the run away", str(caught.value))
    assert reason in str(caught.value)


def test_what_a_run_of_old_left_is_read(tmp_path: Path) -> None:
    """A run of before there were prompts, figures beside OP and BWT, or rounds that train nothing."""
    summary = {"complete": True, "OP": [80.5, 50.0], "BWT": [0.0, -20.25], "zero_shot": {}}
    run = stored(tmp_path / "b" / "m" / "seqft" / "seed1", **{"summary.json": json.dumps(summary)})
    assert {name: run.figures[name] for name in ("OP", "BWT")} == {name: summary[name] for name in ("OP", "BWT")}
    assert (run.untrained, run.figures["learned"][-1], run.zero_shot) == ([], 70.25, {})
    assert (run.needs_task_id, run.seconds, run.extra_bytes) == (None, None, None)
