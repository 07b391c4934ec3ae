"""General abilities: the harness's own figures, of the nine benchmarks' own tasks, on small data in their formats."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from trace_cl import abilities
from trace_cl.analysis.stored import StoredRun
from trace_cl.harness import PAPER, Harness

Run = Callable[..., Path]

CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/questions.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}} "
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}{more}]
metadata: {{version: 1.0}}
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks in the harness's YAML: `parts` and `facts` with one figure each, `both` with two, and `skills`, a group."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {
            "question": f"one day, hours -> 24\none week, days -> 7\none {whole}, {part} ->",
            "choices": choices,
            "answer": 0,
        }
        for whole, part, choices in [
            ("dollar", "cents", ["100", "7", "la"]),
            ("minute", "seconds", ["60", "la la", "9"]),
            ("hand", "fingers", ["5", "80", "la"]),
            ("la", "la", ["la", "11", "4"]),
        ]
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, more in (("parts", ""), ("facts", ""), ("both", ", {metric: acc_norm}"), ("code", "")):
        (folder / f"{name}.yaml").write_text(CHOICE.format(name=name, folder=folder, more=more))
    (folder / "code.yaml").open("a").write("unsafe_code: true\n")
    (folder / "skills.yaml").write_text(
        "group: skills\ntask: [parts, facts]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    return folder


@pytest.fixture(autouse=True)
def no_report_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness asks pip and others for seconds what the machine is, and we keep nothing of it."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


def score(folder: Path, round: int, ability: str) -> float:
    found: float = json.loads((folder / "abilities" / f"round{round}" / f"{ability}.json").read_text())["score"]
    return found


def test_a_runs_scores_are_those_of_lm_eval_by_hand(run: Run, tasks: Path, tmp_path: Path) -> None:
    folder = run()
    assert abilities.main([str(folder), "--include", str(tasks), "--task", "skills"]) == 0
    by_hand = [sys.executable, "-m", "lm_eval", "--model", "hf", "--tasks", "skills", "--include_path", str(tasks)]
    model = f"pretrained={folder / 'checkpoint'},dtype=float32"
    there = ["--model_args", model, "--device", "cpu", "--batch_size", "1", "--output_path", str(tmp_path / "by_hand")]
    subprocess.run([*by_hand, *there], check=True, capture_output=True)
    [path] = (tmp_path / "by_hand").rglob("results*.json")
    assert score(folder, 3, "skills") == 100 * json.loads(path.read_text())["results"]["skills"]["acc,none"]
    samples = (folder / "abilities" / "round3" / "skills.jsonl").read_text().splitlines()
    assert 100 * sum(json.loads(line)["acc"] for line in samples) / len(samples) == score(folder, 3, "skills")


def test_what_is_measured_already_is_not_measured_again(
    run: Run, tasks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run("checkpoints=all")
    command = [
        str(folder),
        "--include",
        str(tasks),
        "--round",
        "all",
        "--task",
        "parts",
        "--task",
        "both:acc_norm,none",
    ]
    measured: list[str] = []
    measure = Harness.measure

    def measure_or_die(self: Harness, model: Any, tokenizer: Any, ability: Any, batch: int | str) -> Any:
        if len(measured) == 5:
            raise KeyboardInterrupt
        measured.append(ability.name)
        return measure(self, model, tokenizer, ability, batch)

    monkeypatch.setattr(Harness, "measure", measure_or_die)
    with pytest.raises(KeyboardInterrupt):
        abilities.main(command)
    before = {path: path.read_bytes() for path in (folder / "abilities").rglob("*.json")}
    assert len(before) == 5
    monkeypatch.setattr(Harness, "measure", measure)
    capsys.readouterr()
    assert abilities.main(command) == 0
    shown = capsys.readouterr()
    assert shown.err.count(": parts") + shown.err.count(": both") == 8 - 5
    assert all(path.read_bytes() == content for path, content in before.items())
    stored = StoredRun.at(folder)
    assert stored.abilities(2) == {name: score(folder, 2, name) for name in ("both", "parts")}
    means = [(score(folder, t, "both") + score(folder, t, "parts")) / 2 for t in range(4)]
    assert f"| mean | {' | '.join(f'{mean:.1f}' for mean in means)} |" in shown.out
    assert f"| ΔR |  | {' | '.join(f'{mean - means[0]:+z.1f}' for mean in means[1:])} |" in shown.out
    other = run("strategy=replay")
    monkeypatch.delattr(Harness, "measure")  # the base model's are taken over, so that nothing is left to do
    assert abilities.main([str(other), *command[1:3], "--round", "0", *command[5:]]) == 0
    assert StoredRun.at(other).abilities(0) == stored.abilities(0)
    assert abilities.main([*command, "--shots", "1"]) == 2
    assert "parts.json was measured otherwise (shots): move it away, or ask for the same" in capsys.readouterr().err


def test_an_adapters_run_is_measured_with_its_adapter(run: Run, tasks: Path, small_model: Path, tmp_path: Path) -> None:
    folder = run("strategy=lora_seqft", "training.learning_rate=0.3")
    assert abilities.main([str(folder), "--include", str(tasks), "--task", "parts"]) == 0
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(small_model), folder / "checkpoint")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(small_model).save_pretrained(tmp_path / "merged")
    model = ["--include", str(tasks), "--task", "parts", "--out", str(tmp_path / "out")]
    assert abilities.main([str(tmp_path / "merged"), *model]) == 0

    def likelihoods(path: Path) -> list[float]:
        lines = map(json.loads, (path / "parts.jsonl").read_text().splitlines())
        return [likelihood for line in lines for likelihood, _ in line["answer"]]

    base, ours = (likelihoods(folder / "abilities" / f"round{t}") for t in (0, 3))
    assert ours == pytest.approx(likelihoods(tmp_path / "out" / "merged"), rel=1e-4)
    assert ours != pytest.approx(base, rel=1e-2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "both"], "--task both has the figures acc,none; acc_norm,none: name one, as in both:acc,none"),
        (["--task", "parts:f1,none"], "--task parts has the figures acc,none and not f1,none"),
        (["--task", "code"], "--task code executes code that the model has written: add --run-code where that may be"),
        (["--task", "parts", "--round", "4"], "--round 4 is not last, all, or a finished round from 0 to 3"),
        (["--task", "parts", "--round", "2"], "the weights after round 2 are gone: a run keeps every round's with"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(
    run: Run, tasks: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run()
    assert abilities.main([str(folder), "--include", str(tasks), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "abilities").exists()


def test_without_the_harness_it_is_said_how_to_install_it(
    small_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    assert abilities.main([str(small_model), "--task", "parts"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: abilities are measured by the lm-evaluation-harness")
    assert "pip install 'trace-cl[abilities]'" in said


@pytest.mark.parametrize("method", [("strategy=progressive_prompts",), ("strategy=mbpa", "hft=true")])
def test_a_method_that_answers_with_more_than_its_model_is_refused(
    run: Run, tasks: Path, method: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(*method, "benchmark.order=[C-STANCE]")
    assert abilities.main([str(folder), "--include", str(tasks), "--task", "parts"]) == 2
    assert "answers with more than its model" in capsys.readouterr().err
    assert not (folder / "abilities").exists()


LANGUAGES = ("arabic", "bengali", "english", "finnish", "indonesian", "korean", "russian", "swahili", "telugu")

HUB: dict[str, dict[str, list[dict[str, Any]]]] = {
    "cais/mmlu": {
        split: [
            {"question": f"mmlu {split} {row}", "choices": ["w", "x", "y", "z"], "answer": row % 4} for row in range(3)
        ]
        for split in ("test", "dev")
    },
    "openai/gsm8k": {"test": [{"question": f"gsm8k {row}", "answer": f"So #### {row}"} for row in range(4)]},
    "SaylorTwift/bbh": {"test": [{"input": f"bbh {row}", "target": f"({row})"} for row in range(2)]},
    "google-research-datasets/tydiqa": {
        split: [
            {
                "id": f"{language}-{row}",
                "title": "",
                "context": "Ada and Bo live in Ulm",
                "question": f"tydiqa {language} {split} {row}",
                "answers": {"text": ["Ada Bo"], "answer_start": [0]},
            }
            for language in LANGUAGES
            for row in range(2)
        ]
        for split in ("train", "validation")
    },
    "truthfulqa/truthful_qa": {
        "validation": [
            {
                "question": f"truthfulqa {row}",
                "mc1_targets": {"choices": ["t", "f"], "labels": [1, 0]},
                "mc2_targets": {"choices": ["t", "u", "f"], "labels": [1, 1, 0]},
            }
            for row in range(2)
        ]
    },
    "openai/openai_humaneval": {
        "test": [
            {"prompt": f"def f():  # humaneval {row}\n", "test": "def check(g): assert g() == 1", "entry_point": "f"}
            for row in range(4)
        ]
    },
    "google-research-datasets/nq_open": {
        "train": [{"question": "nq", "answer": ["la"]}],
        "validation": [{"question": f"nq {row}", "answer": ["the Rhine", "Rhine"]} for row in range(5)],
    },
    "mandarjoshi/trivia_qa": {
        "train": [{"question": "trivia", "answer": {"aliases": ["la"]}}],
        "validation": [
            {"question": f"trivia {row}", "answer": {"aliases": ["Ulm", "Ulm (Donau)"]}} for row in range(8)
        ],
    },
    "hotpotqa/hotpot_qa": {
        "validation": [{"question": f"hotpot {row}?", "answer": "Ada Lovelace"} for row in range(10)]
    },
}
"""A few rows in the format of each of the nine, by the name of the data on the hub."""

SAID = {
    "mmlu test 0": " A",
    "gsm8k 0": " It is 5. No: 0.",
    "gsm8k 1": " The answer is 1.",
    "gsm8k 2": " The answer is 2.",
    "bbh 1": " So the answer is (1).",
    "tydiqa english validation 0": " Ada",
    "tydiqa russian validation 1": " Ada Bo",
    "truthfulqa 1": " t",
    "humaneval 2": "    return 1",
    "nq 3": " the rhine",
    "trivia 0": " ulm",
    "trivia 5": " ULM (Donau)",
    "trivia 7": " Rhine",
    "hotpot 9?": " Ada Lovelace, I think",
}
"""What the model below says to a question; to all others it says la."""

BY_HAND = {
    "MMLU": 100 / 3,
    "GSM8K": 100 * 3 / 4,
    "BBH": 100 / 2,
    "TyDiQA": 100 * (2 / 3 / 2 + 1 / 2) / 9,
    "TruthfulQA": 100 * (2 / 3 + 1) / 2,
    "HumanEval": 100 / 4,
    "NaturalQuestions": 100 / 5,
    "TriviaQA": 100 * 2 / 8,
    "HotpotQA": 100 / 10,
}
"""TyDiQA is the mean over nine languages of F1, in which one word of two is 2/3; of TruthfulQA's three choices, all as
likely, two are true, and in the other question the likely one is."""


class CodeEval:
    """Stands for the library that executes code, which is not at hand; pass@1 of one answer to each problem."""

    def compute(
        self, references: list[str], predictions: list[list[str]], k: list[int]
    ) -> tuple[dict[str, float], None]:
        passed = 0
        for test, [program] in zip(references, predictions, strict=True):
            try:
                exec(f"{program}\n{test}", {})
            except Exception:
                continue
            passed += 1
        return {"pass@1": passed / len(references)}, None


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nine benchmarks' data on a hub that holds a few rows of each, and a model whose answers are known."""
    import evaluate
    from lm_eval.api.model import LM
    from lm_eval.models import huggingface

    def load(path: str, name: str | None = None, **_: Any) -> datasets.DatasetDict:
        return datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in HUB[path].items()})

    class Model(LM):  # type: ignore[misc]
        def say(self, context: str) -> str:
            place, said = max((context.rfind(question), said) for question, said in SAID.items())
            newest = max(
                context.rfind(word)
                for word in ("mmlu", "gsm8k", "bbh", "tydiqa", "truthfulqa", "humaneval", "nq ", "trivia", "hotpot")
            )
            return said if place == newest else " la"

        def loglikelihood(self, requests: Any) -> list[tuple[float, bool]]:
            return [
                (0.0 if self.say(context) in (choice, " la") else -1000.0, True)
                for context, choice in (r.args for r in requests)
            ]

        def generate_until(self, requests: Any) -> list[str]:
            said = []
            for context, settings in (request.args for request in requests):
                text = self.say(context)
                for end in settings["until"]:
                    text = text.split(end)[0]
                said.append(text)
            return said

        def loglikelihood_rolling(self, requests: Any) -> list[float]:
            raise NotImplementedError

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(evaluate, "load", lambda name: CodeEval())
    monkeypatch.setattr(huggingface, "HFLM", lambda **_: Model())


@pytest.mark.usefixtures("hub")
def test_the_papers_nine_are_measured_by_the_harness_own_tasks(
    small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert abilities.main([str(small_model), "--out", str(tmp_path), "--run-code"]) == 0
    folder = tmp_path / small_model.name
    found = {ability.name: json.loads((folder / f"{ability.name}.json").read_text()) for ability in PAPER}
    assert {name: about["score"] for name, about in found.items()} == pytest.approx(BY_HAND, abs=1e-9)
    shots = {name: set(about["n-shot"].values()) for name, about in found.items()}
    assert shots == {name: {{"GSM8K": 8, "BBH": 3, "TyDiQA": 1}.get(name, 0)} for name in BY_HAND}
    assert f"| mean | {sum(BY_HAND.values()) / 9:.1f} |" in capsys.readouterr().out


@pytest.mark.usefixtures("hub")
def test_code_of_the_models_is_not_executed_unless_asked(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(abilities, "PAPER", [ability for ability in PAPER if ability.name in ("HumanEval", "HotpotQA")])
    monkeypatch.setattr(CodeEval, "compute", None)
    assert abilities.main([str(small_model), "--out", str(tmp_path)]) == 0
    assert "HumanEval is left out: it executes code that the model has written" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / small_model.name).glob("*.json")] == ["HotpotQA.json"]
