"""docs/extend.md is followed to the letter: its files are written into an empty folder and its commands run there."""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs" / "extend.md").read_text(encoding="utf-8")
BLOCK = re.compile(r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command of the page, as the console script runs it: the current folder is not on Python's path by itself."""
    program, *arguments = shlex.split(command)
    if program == "trace-cl":
        arguments = ["-m", "trace_cl", *arguments]
        safe = {"PYTHONSAFEPATH": "1"}
    else:
        assert program == "python"
        safe = {}
    environment = {**os.environ, **safe, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def matrix(folder: Path) -> list[list[str]]:
    with (folder / "matrix.csv").open() as file:
        return list(csv.reader(file))


def test_the_page_leads_from_an_empty_folder_to_a_matrix(tmp_path: Path) -> None:
    said = ""
    for language, title, content in BLOCK.findall(PAGE):
        if title:
            (tmp_path / title).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / title).write_text(content, encoding="utf-8")
        elif language == "console":
            for line in content.splitlines():
                done = run(line.removeprefix("$ "), tmp_path)
                assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
                said += done.stdout
    assert re.search(r"Capitals +train +40", said)
    for run_folder in ("tiny/seqft", "tiny/half_back+hft-part0.25", "mine/half_back"):
        header, first, second = matrix(tmp_path / "runs" / "mine" / run_folder / "seed1")
        assert header == ["round", "Capitals", "Backwards"]
        assert first[2] == ""
        assert all(0 <= float(score) <= 100 for score in (first[1], *second[1:]))

    for typo, sentence in {
        "strategy=mime": "strategy=mime: no such choice; nearest: mine",
        "strategy=mine strategy.parts=1": "strategy.parts: no such key; nearest: strategy.part",
        "benchmark=mine benchmark.tasks.Capitals.metric=nine.letters": (
            "benchmark.tasks.Capitals.metric=nine.letters: there is no module nine"
        ),
        "strategy=lora_seqft benchmark=mine model=mine": (
            "training.learning_rate=${model.adapter_learning_rate}, which is not set"
        ),
    }.items():
        done = run(f"trace-cl --config-dir conf {typo}", tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {sentence}")
        assert len(done.stderr.splitlines()) == 1


def test_the_page_names_every_metric_and_every_hook() -> None:
    from trace_cl.metrics import METRICS
    from trace_cl.strategies import Strategy

    assert all(f"`{name}`" in PAGE for name in METRICS)
    for hook in re.findall(r"^\| `(\w+)\(", PAGE, re.MULTILINE):
        assert hasattr(Strategy, hook), hook
