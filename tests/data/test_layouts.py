"""The published benchmarks as they lie in their repositories: read, checked, learned, scored; broken copies refused.

The rows themselves are nobody's here: where they are not at hand, a small copy of each layout stands for them.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import compose, find_layout

from trace_cl.analysis.stored import StoredRun
from trace_cl.build import build_strategy
from trace_cl.config import check
from trace_cl.data.__main__ import main
from trace_cl.data.benchmark import load_data
from trace_cl.data.files import TaskData
from trace_cl.errors import UserError
from trace_cl.identity import run_folder
from trace_cl.run import start

FILES = {"train": "train.json", "eval": "dev.json", "test": "test.json"}


def load(*overrides: str) -> dict[str, TaskData]:
    config = compose(*overrides)
    check(config)
    return load_data(config.benchmark, instructions=False)


@pytest.fixture
def o_lora(tmp_path: Path) -> Path:
    """O-LoRA's layout, of three tasks of two types and COPA."""
    root = tmp_path / "CL_Benchmark"
    labels = {"NLI/CB": ["yes", "no"], "NLI/RTE": ["yes", "no"], "SC/yelp": ["Good", "Bad"], "COPA/COPA": ["A", "B"]}
    for place, answers in labels.items():
        folder = root / place
        folder.mkdir(parents=True)
        write(folder / "labels.json", answers)
        for split, count in (("train", 6), ("dev", 3), ("test", 3)):
            rows = [{"label": answers[n % 2], "sentence": f"{place} {split} {{{n}}} "} for n in range(count)]
            write(folder / f"{split}.json", rows)
    asked = {kind: [{"instruction_type": "zero-shot", "instruction": f"{kind}?\n"}] for kind in ("NLI", "SC")}
    write(root / "instruction_config.json", asked)
    return root


@pytest.fixture
def natural(tmp_path: Path) -> Path:
    """Natural Instructions' layout, of two tasks."""
    root = tmp_path / "SuperNI"
    for name, outputs in (("task002_a", [["one", "other"], ["one"], [" ", "last"]]), ("task073_b", ["A", "B", "C"])):
        (root / name).mkdir(parents=True)
        for file in FILES.values():
            instances = [{"id": "", "input": f"{name} {file} {n}", "output": out} for n, out in enumerate(outputs)]
            write(root / name / file, {"Definition": [f" What of {name}?\n"], "Instances": instances})
    return root


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def test_o_lora_prompts_are_instruction_options_sentence(o_lora: Path) -> None:
    loaded = load("benchmark=long_sequence", f"benchmark.root={o_lora}", "benchmark.order=[CB,yelp,COPA]")
    first = {name: task.splits["test"][1] for name, task in loaded.items()}
    assert first == {
        "CB": {"prompt": "NLI?\nOption: yes, no \nNLI/CB test {1} \nAnswer:", "answer": "no"},
        "yelp": {"prompt": "SC?\nOption: Good, Bad \nSC/yelp test {1} \nAnswer:", "answer": "Bad"},
        "COPA": {"prompt": "COPA/COPA test {1} \nAnswer:", "answer": "B"},
    }
    upstream = "benchmark.template='Task:{type} Dataset:{task} {{as it is}}'"
    [row, *_] = load("benchmark=long_sequence", f"benchmark.root={o_lora}", "benchmark.order=[CB]", upstream)[
        "CB"
    ].splits["eval"]
    assert row["prompt"] == "Task:NLI Dataset:CB {as it is}"


def test_the_instructions_may_lie_beside_the_benchmark(o_lora: Path) -> None:
    (o_lora.parent / "configs").mkdir()
    shutil.move(o_lora / "instruction_config.json", o_lora.parent / "configs")
    loaded = load("benchmark=long_sequence", f"benchmark.root={o_lora}", "benchmark.order=[RTE]")
    assert loaded["RTE"].splits["train"][0]["prompt"].startswith("NLI?\nOption: yes, no \n")


def test_natural_instructions_learn_the_first_output_that_says_something(natural: Path) -> None:
    tasks = "+benchmark.tasks={task002:{epochs:1,metric:rouge_l,answer_tokens:4}}"
    loaded = load("benchmark=superni", f"benchmark.root={natural}", tasks, "benchmark.order=[task002]")["task002"]
    assert loaded.splits["eval"].to_list() == [
        {
            "prompt": "Definition: What of task002_a?\n\nNow complete the following example -\n"
            f"Input: task002_a dev.json {n}\nOutput: ",
            "answer": answer,
        }
        for n, answer in enumerate(["one", "one", "last"])
    ]
    assert loaded.notes == ("1 train, 1 eval, 1 test rows have several outputs, of which the first counts",)


def test_a_row_without_an_output_is_left_out_and_told_of(natural: Path) -> None:
    change(natural / "task073_b" / "train.json", lambda task: task["Instances"][1].update(output=[""]))
    tasks = "+benchmark.tasks={task073:{epochs:1,metric:rouge_l,answer_tokens:4}}"
    loaded = load("benchmark=superni", f"benchmark.root={natural}", tasks, "benchmark.order=[task073]")["task073"]
    assert loaded.splits["train"]["answer"] == ["A", "C"]
    assert loaded.notes == ("1 train rows have no output and are left out",)


def change(path: Path, act: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    act(content)
    write(path, content)


@pytest.mark.parametrize(
    ("file", "spoil", "message"),
    [
        (
            "NLI/CB/test.json",
            lambda rows: rows[2].pop("label"),
            'test.json, row 2: "label" is missing; every row needs',
        ),
        ("NLI/CB/dev.json", lambda rows: rows[1].update(label="No"), "dev.json, row 1: its label 'No' is not one of"),
        ("NLI/CB/train.json", lambda rows: rows[3].update(sentence=" "), 'train.json, row 3: "sentence" is empty'),
        ("NLI/CB/labels.json", lambda labels: labels.clear(), "labels.json: must be a non-empty array of texts"),
        ("instruction_config.json", lambda of: of.pop("NLI"), "has no zero-shot instruction for NLI"),
        (
            "instruction_config.json",
            lambda of: of["NLI"][0].update(instruction=3),
            "or give benchmark.tasks.CB.template",
        ),
    ],
    ids=range(6),
)
def test_broken_files_of_o_lora_are_named(
    o_lora: Path, file: str, spoil: Callable[[Any], object], message: str
) -> None:
    change(o_lora / file, spoil)
    with pytest.raises(UserError) as refused:
        load("benchmark=long_sequence", f"benchmark.root={o_lora}", "benchmark.order=[yelp,CB]")
    assert message in str(refused.value)
    assert str(o_lora / file) in str(refused.value)


def test_what_is_missing_of_o_lora_is_named(o_lora: Path) -> None:
    (o_lora / "SC" / "CB").mkdir()
    for name, message in (
        ("CB", "NLI/CB and .*SC/CB are both CB"),
        ("WiC", r"\*/WiC is missing: put WiC's train.json, dev.json, test.json, labels.json there"),
        ("yelp", "dev.json is missing: yelp needs .*; or leave it out of benchmark.order"),
        ("RTE", "test.json, line 1: not valid JSON"),
    ):
        (o_lora / "SC" / "yelp" / "dev.json").unlink(missing_ok=True)
        (o_lora / "NLI" / "RTE" / "test.json").write_text('[{"label": "yes", "sent')
        with pytest.raises(UserError, match=message):
            load("benchmark=long_sequence", f"benchmark.root={o_lora}", f"benchmark.order=[{name}]")
    with pytest.raises(UserError, match=r"is no folder: set benchmark.root"):
        load("benchmark=long_sequence", f"benchmark.root={o_lora / 'x'}", "benchmark.order=[CB]")
    shutil.rmtree(o_lora / "SC" / "CB")
    (o_lora / "instruction_config.json").unlink()
    with pytest.raises(UserError, match=r"instruction_config.json is missing: .*benchmark.tasks.CB.template"):
        load("benchmark=long_sequence", f"benchmark.root={o_lora}", "benchmark.order=[CB]")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda task: task["Instances"][2].update(output=[]), 'Instances, row 2: "output" is an empty array'),
        (lambda task: task["Instances"][1].pop("output"), 'Instances, row 1: "output" is missing'),
        (lambda task: task["Instances"][1].update(output=["a", 3]), 'row 1: "output" must be a text, not a number'),
        (lambda task: task["Instances"][0].pop("input"), 'Instances, row 0: "input" is missing'),
        (lambda task: [row.update(output="") for row in task["Instances"]], "Instances: no row has an output"),
        (lambda task: task.pop("Instances"), "Instances: must be a non-empty array"),
        (
            lambda task: task.update(Definition=[]),
            '"Definition" must be a text, or an array of texts, not empty an array',
        ),
    ],
    ids=range(7),
)
def test_broken_natural_instructions_are_named(natural: Path, spoil: Callable[[Any], object], message: str) -> None:
    change(natural / "task073_b" / "test.json", spoil)
    tasks = "+benchmark.tasks={task073:{epochs:1,metric:rouge_l,answer_tokens:4}}"
    with pytest.raises(UserError) as refused:
        load("benchmark=superni", f"benchmark.root={natural}", tasks, "benchmark.order=[task073]")
    assert message in str(refused.value)
    assert str(natural / "task073_b" / "test.json") in str(refused.value)


def test_what_is_missing_of_natural_instructions_is_named(natural: Path) -> None:
    (natural / "task002_again").mkdir()
    (natural / "task073_b" / "dev.json").write_text("[]")
    for name, message in (
        ("task002", "task002_a and .*task002_again are both task002"),
        ("task00", "task00 is missing: put task00's train.json, dev.json, test.json there"),
        ("task002_again", "train.json is missing: task002_again needs"),
        ("task073_b", 'dev.json: must be an object with "Definition" and "Instances", not empty an array'),
    ):
        tasks = f"+benchmark.tasks={{{name}:{{epochs:1,metric:rouge_l,answer_tokens:4}}}}"
        with pytest.raises(UserError, match=message):
            load("benchmark=superni", f"benchmark.root={natural}", tasks, f"benchmark.order=[{name}]")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["benchmark.template='{sentense}'"],
            "benchmark.template: there is no {sentense} here, but {instruction}, {opt",
        ),
        (["benchmark.template='{sentence'"], "benchmark.template: .*; a brace that names no place is written twice"),
        (["benchmark.template='{sentence:3}'"], "benchmark.template: {sentence:…} is no name of a place alone"),
        (["benchmark.tasks.CB.template='{}'"], "benchmark.tasks.CB.template: there is no {} here"),
        (["benchmark.template=null"], "benchmark.template is not set: benchmark.reader=cl_benchmark needs a text with"),
        (["benchmark.tasks.CB.options=[a,b]"], "benchmark.tasks.CB.options is for benchmark.reader=datasets"),
        (["benchmark.answer='{label}'"], "benchmark.answer is for benchmark.reader=datasets"),
        (["benchmark.edition=500"], "benchmark.edition=500 is not one of any: it has none; or null"),
        (["benchmark.reader=csv"], "benchmark.reader=csv is not one of trace, cl_benchmark"),
        (["benchmark.counts.CB=[1,2]"], "benchmark.counts.CB=.* must be a whole number, or three"),
        (["benchmark.counts.CB=1.5"], "benchmark.counts.CB=1.5 must be a whole number, or three"),
    ],
    ids=range(11),
)
def test_a_template_or_key_that_cannot_be_read_is_named(o_lora: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("{", r"\{")):
        load("benchmark=long_sequence", f"benchmark.root={o_lora}", "benchmark.order=[CB]", *overrides)


def test_a_template_puts_traces_prompts_into_other_words(small_root: Path) -> None:
    arguments = ("benchmark=trace", f"benchmark.root={small_root}", "benchmark.order=[FOMC]")
    plain, other = (
        load(*arguments, *more)["FOMC"].splits["test"] for more in ((), ("benchmark.template='Q: {prompt}\n'",))
    )
    assert other["prompt"] == [f"Q: {prompt}\n" for prompt in plain["prompt"]]
    assert other["answer"] == plain["answer"]
    with pytest.raises(UserError, match=r"benchmark\.template is for files"):
        load("benchmark=embedded", "benchmark.template='{prompt}'")


ORDERS = {
    ("standard_cl", "1"): "dbpedia amazon yahoo agnews",
    ("standard_cl", "2"): "dbpedia amazon agnews yahoo",
    ("standard_cl", "3"): "yahoo amazon agnews dbpedia",
    (
        "long_sequence",
        "4",
    ): "MNLI CB WiC COPA QQP BoolQA RTE IMDB yelp amazon SST-2 dbpedia agnews MultiRC yahoo",
    (
        "long_sequence",
        "5",
    ): "MultiRC BoolQA WiC MNLI CB COPA QQP RTE IMDB SST-2 dbpedia agnews yelp amazon yahoo",
    (
        "long_sequence",
        "6",
    ): "yelp amazon MNLI CB COPA QQP RTE IMDB SST-2 dbpedia agnews yahoo MultiRC BoolQA WiC",
    ("superni", "1"): "1572 363 1290 181 002 1510 639 1729 073 1590 748 511 591 1687 875",
    ("superni", "2"): "748 073 1590 639 1572 1687 591 363 1510 1729 181 511 002 1290 875",
    ("superni12", "3"): "1572 363 1290 181 002 1510 073 748 511 591 195 875",
    ("superni12", "4"): "748 073 1572 195 591 363 1510 181 511 002 1290 875",
    ("trace", "2"): "NumGLUE-cm NumGLUE-ds FOMC 20Minuten C-STANCE Py150 MeetingBank ScienceQA",
}
"""As the papers' scripts have them; of Natural Instructions the numbers of the tasks."""


@pytest.mark.parametrize(("benchmark", "order"), ORDERS)
def test_the_orders_are_the_papers(benchmark: str, order: str) -> None:
    config = compose(f"benchmark={benchmark}", f"benchmark.order={order}")
    check(config)
    names = [re.sub(r"^task(\d+).*", r"\1", name) for name in config.benchmark.order]
    assert " ".join(names) == ORDERS[benchmark, order]
    assert run_folder(config, "seqft").parent.name in (f"seqft-order{order}", "seqft")


@pytest.mark.parametrize(
    ("benchmark", "layout", "tasks"),
    [
        (
            "long_sequence",
            "cl_benchmark",
            ["MNLI", "CB", "COPA", "SST-2", "agnews", "QQP", "BoolQA", "WiC", "amazon", "RTE"],
        ),
        ("superni", "superni", []),
    ],
)
def test_the_real_rows_are_all_read_and_what_is_peculiar_is_told(
    benchmark: str, layout: str, tasks: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = find_layout(layout)
    manifest = json.loads((root.parent / "manifest.json").read_text())
    arguments = [f"benchmark={benchmark}", f"benchmark.root={root}"]
    config = compose(*arguments, *([f"benchmark.order=[{','.join(tasks)}]"] if tasks else []))
    loaded = load_data(config.benchmark, instructions=False)
    blank = {("task511_reddit_tifu_long_text_summarization", "train"): 1}
    for name, task in loaded.items():
        for split, rows in task.splits.items():
            [entry] = [e for path, e in manifest.items() if path.endswith(f"/{name}/{FILES[split]}")]
            assert len(rows) == entry["rows"] - blank.get((name, split), 0)
            counts = config.benchmark.counts[name]
            assert counts[["train", "eval", "test"].index(split)] == entry["of"], (name, split)
        assert task.sha256("eval") == task.sha256("test")
    order = f"benchmark.order=[{','.join(list(loaded)[:2])}]"
    assert main([*arguments, order, "evaluation.split=eval"]) == 0
    said = capsys.readouterr().out
    for name in list(loaded)[:2]:
        assert f"{name}: the eval split is the test split: what is chosen by its scores is chosen on the test" in said
        assert re.search(
            rf"^{name}: \d+ eval rows: one is [\d.]+ points, and a score of 50 has the 95% int", said, re.M
        )


def test_prompts_of_the_real_rows() -> None:
    """Put together by hand from the files."""
    root = find_layout("cl_benchmark")
    asked = json.loads((root / "instruction_config.json").read_text())
    long = load("benchmark=long_sequence", f"benchmark.root={root}", "benchmark.order=[COPA,WiC,agnews]")
    for place, begin in (
        ("COPA/COPA", ""),
        ("WiC/WiC", asked["WiC"][0]["instruction"] + "Option: True, False \n"),
        ("TC/agnews", asked["TC"][0]["instruction"] + "Option: World, Sports, Business, Science or Technology \n"),
    ):
        rows = json.loads((root / place / "train.json").read_text())
        expected = [{"prompt": f"{begin}{row['sentence']}\nAnswer:", "answer": row["label"]} for row in rows]
        assert long[place.partition("/")[2]].splits["train"].to_list() == expected
    root, name = find_layout("superni"), "task591_sciq_answer_generation"
    natural = load("benchmark=superni", f"benchmark.root={root}", f"benchmark.order=[{name}]")
    task = json.loads((root / name / "test.json").read_text())
    begin = f"Definition: {task['Definition'][0]}\n\nNow complete the following example -\nInput: "
    assert natural[name].splits["test"].to_list() == [
        {"prompt": f"{begin}{row['input']}\nOutput: ", "answer": row["output"][0]} for row in task["Instances"]
    ]


@pytest.mark.parametrize(
    ("benchmark", "layout", "tasks"),
    [
        ("long_sequence", "cl_benchmark", ["CB", "COPA"]),
        ("superni", "superni", ["task591_sciq_answer_generation", "task363_sst2_polarity_classification"]),
    ],
)
def test_a_run_learns_and_scores_them(
    benchmark: str, layout: str, tasks: list[str], tmp_path: Path, small_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = compose(
        f"benchmark={benchmark}",
        f"benchmark.root={find_layout(layout)}",
        f"benchmark.order=[{','.join(tasks)}]",
        "benchmark.max_train=8",
        "benchmark.max_test=4",
        "benchmark.epochs=1",
        "training.global_batch=4",
        "evaluation.split=eval",
        f"model.path={small_model}",
        f"runs_dir={tmp_path}",
    )
    start(config)
    stored = StoredRun.at(run_folder(config, build_strategy(config).name))
    assert list(stored.tasks) == tasks
    assert [len(row) for row in stored.rows] == [1, 2]
    said = capsys.readouterr().err
    assert (
        f"data: {tasks[0]}: the eval split is the test split: what is chosen by its scores is chosen on the te" in said
    )
    report = (stored.folder / "report.md").read_text()
    first = stored.rows[-1][0]
    assert f"{tasks[0]} {first:.1f} (" in report
    assert "; 4 rows)" in report


def test_an_edition_is_found_by_its_folder_and_counted(tmp_path: Path, small_root: Path) -> None:
    for folder, count in (("LLM-CL-Benchmark_500", 500), ("LLM-CL-Benchmark_1000", 501), ("LLM-CL-Benchmark_5000", 9)):
        shutil.copytree(small_root / "FOMC", tmp_path / folder / "FOMC")
        write(tmp_path / folder / "FOMC" / "train.json", [{"prompt": f"p{n}", "answer": "a"} for n in range(count)])
    shutil.copytree(small_root / "FOMC", tmp_path / "FOMC")

    def rows(edition: str) -> int:
        settings = ("benchmark=trace", f"benchmark.root={tmp_path}", "benchmark.order=[FOMC]")
        return len(load(*settings, f"benchmark.edition={edition}")["FOMC"].splits["train"])

    assert [rows(edition) for edition in ("500", "1000", "null", "reasoning")] == [500, 501, 12, 12]
    with pytest.raises(UserError, match=r"LLM-CL-Benchmark_5000/FOMC has 9 training rows, and edition 5000 has 5000"):
        rows("5000")
    with pytest.raises(UserError, match=r"benchmark\.edition=50 is not one of 500, 1000, 5000, reasoning; or null"):
        rows("50")
    config = compose("benchmark=trace", "benchmark.edition=500")
    assert run_folder(config, "seqft").parent.name == "seqft-edition500"


def test_the_plan_counts_an_edition(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACE_ROOT", raising=False)
    start(compose("benchmark=trace", "benchmark.edition=1000", "dry_run=json"))
    assert {round["examples"] for round in json.loads(capsys.readouterr().out)["rounds"]} == {1000}
