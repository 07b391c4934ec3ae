"""The command as a user types it: exit codes, and what stands on stdout and stderr."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from support import find_trace_root

from trace_cl.command import own_folder

REPOSITORY = Path(__file__).resolve().parents[2]


def trace_cl(*arguments: str, root: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "TRACE_ROOT"}
    if root is not None:
        environment["TRACE_ROOT"] = str(root)
    command = [sys.executable, "-m", "trace_cl", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("strategy=seqtf", "strategy=seqtf: no such choice; nearest: seqft"),
        ("training.learning_rte=1", "training.learning_rte: no such key; nearest: training.learning_rate"),
        ("seed=one", "seed: Value 'one' of type 'str' could not be converted to Integer"),
        ("hft=half", "hft: Value 'half' is not a valid bool"),
        ("benchmark=trace", "benchmark=trace needs its data: set benchmark.root=DIR or $TRACE_ROOT"),
        ("model.path=/no/such/model", "/no/such/model holds no model (no config.json)"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(argument: str, sentence: str, tmp_path: Path) -> None:
    done = trace_cl(argument, f"runs_dir={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {sentence}")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_a_hub_that_cannot_be_reached_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    done = trace_cl("model=smollm2-135m", "benchmark=embedded", f"runs_dir={tmp_path}")
    assert done.returncode == 2
    assert "could not be fetched from the Hugging Face hub" in done.stderr
    assert "model.path=DIR" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_is_one_screen_of_what_a_user_types() -> None:
    done = trace_cl("--help")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120
    for word in (
        "hft=true",
        "seed=1",
        "runs_dir=",
        "strategy=",
        "seqft*",
        "llama2-chat-7b",
        "dry_run=true",
        "--cfg job",
    ):
        assert word in done.stdout


def test_help_shows_choices_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark" / "mine.yaml").write_text("name: mine\n")
    assert re.search(
        r"benchmark= +embedded\*, embedded_long, mine, trace", trace_cl("--config-dir", str(tmp_path), "--help").stdout
    )


def test_version_is_ours_and_hydras_own_flags_work() -> None:
    assert trace_cl("--version").stdout == f"trace-cl {version('trace-cl')}\n"
    assert "hft: true" in trace_cl("--cfg", "job", "hft=true").stdout
    assert "== Flags ==" in trace_cl("--hydra-help").stdout


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("hft=maybe",), ("modle=tiny",), ("strategy=gme",), ("--cfg", "job")]
)
def test_what_trains_nothing_imports_no_pytorch(arguments: tuple[str, ...]) -> None:
    """That import is most of what a wrong word would be waited for."""
    asked = f"import sys; sys.argv = ['trace-cl', *{arguments!r}]; from trace_cl.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", f"{asked}; assert not {{'torch', 'transformers'}} & set(sys.modules)"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_dry_run_without_the_data_says_what_it_cannot_know() -> None:
    done = trace_cl("dry_run=true", "model=llama2-chat-7b", "strategy=replay")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    first, second, *_ = plan["rounds"]
    assert (first["examples"], first["optimizer_steps"]) == (5000, 5 * 40 + 9), "TRACE's 5,000, then LIMA's 1,030"
    assert [phase["examples"] for phase in second["phases"]] == [5000, 1030 + 500]
    assert plan["tokens"]["training"] is first["tokens"] is plan["memory_per_device"]["total"] is None
    assert plan["memory_per_device"]["weights"] == 4 * 6_738_415_616
    assert "tokens.training" in plan["unknown"]
    refused = trace_cl("dry_run=true", "benchmark.source=files")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: benchmark=embedded needs its data: set benchmark.root=DIR to")


def test_dry_run_of_the_main_job(tmp_path: Path) -> None:
    done = trace_cl("dry_run=true", "hft=true", f"runs_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (plan["model"], plan["method"]) == ("tiny", "seqft+hft")
    assert [r["task"] for r in plan["rounds"]][::7] == ["C-STANCE", "20Minuten"]
    assert plan["unknown"] == []
    assert {r["trainable_share"] for r in plan["rounds"]} == {0.5}
    assert len({tuple(r["frozen_modules"]) for r in plan["rounds"]}) == 8
    assert not list(tmp_path.iterdir())


def test_dry_run_of_a_7b_needs_neither_weights_nor_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    done = trace_cl("dry_run=true", "model=llama2-chat-7b", "hft=true", root=find_trace_root())
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["parameters"] == 6_738_415_616, "as its model card has it"
    first, *_, last = plan["rounds"]
    assert (first["task"], first["epochs"], last["task"], last["epochs"]) == ("C-STANCE", 5, "20Minuten", 7)
    for planned in plan["rounds"]:
        assert planned["optimizer_steps"] == planned["epochs"] * -(-planned["examples"] // 128)
        assert planned["trainable_share"] == 0.5
        assert len(planned["frozen_modules"]) == 32 * (2 + 1) + 16 * (2 + 1)


def test_a_folder_of_ones_own_is_looked_for_among_any_arguments() -> None:
    """Among none too: `make run` types none."""
    assert own_folder([]) is None
    assert own_folder(["seed=1"]) is None
    assert own_folder(["--config-dir"]) == Path("")
    assert own_folder(["seed=1", "-cd", "mine", "hft=true"]) == Path("mine")
    assert own_folder(["--config-dir=mine"]) == Path("mine")
