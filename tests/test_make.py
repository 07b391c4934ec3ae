"""The make targets behind the paper's tables: what they start, and what make's exit code says of it."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from trace_cl.analysis.stored import STRATEGIES
from trace_cl.analysis.tables import COMPARED, MODELS, matrices

REPOSITORY = Path(__file__).resolve().parents[1]

PYTHON = """#!/bin/sh
echo "$@" >> "$LOG"
case "$2" in
trace_cl.launch.preflight) exit $ABLE ;;
trace_cl) exit $RUN ;;
esac
"""
"""Stands for the environment's python: notes what is asked of it, and ends as the test says."""


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--old-file=.venv/ready", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def experiments(*arguments: str) -> set[str]:
    """The tables behind whose runs a target goes, read from its sweep's command."""
    [sweep] = [line for line in make("-n", *arguments).stdout.splitlines() if "trace_cl -m" in line]
    [experiment] = [word.removeprefix("experiment=") for word in sweep.split() if word.startswith("experiment=")]
    return set(experiment.split(","))


def runs(*arguments: str) -> set[str]:
    """The same as `<model>/<method>`."""
    return {matrices()[int(name.removeprefix("table"))] for name in experiments(*arguments)}


def test_a_table_rests_on_the_runs_that_it_shows() -> None:
    pairs = {f"{strategy}{hft}" for strategy in STRATEGIES for hft in ("", "+hft")} - {"lora_seqft+hft"}
    assert runs("table3") == runs("tables") == {f"{model}/{method}" for model in MODELS for method in pairs}
    assert runs("table3", "MODEL=tiny") == {f"{MODELS[0]}/{method}" for method in pairs}
    for number, rows in COMPARED.items():
        assert runs(f"table{number}") == {f"{MODELS[0]}/{method}" for method in rows.values()}
    for number in matrices():
        assert experiments(f"table{number}") == {f"table{number}"}
    own = {file.stem for file in (REPOSITORY / "conf" / "experiment").glob("table5-*.yaml")}
    assert len(own) == 11
    assert experiments("table5", "MODEL=tiny") == {"table29", "table30", "table35", *own}
    assert runs("table12") == runs("table3")
    assert "-m trace_cl.abilities --model tiny" in make("-n", "table12", "MODEL=tiny").stdout
    assert "abilities" not in make("-n", "table3", "MODEL=tiny").stdout
    shares = {file.stem for file in (REPOSITORY / "conf" / "experiment").glob("figure3-*.yaml")}
    assert experiments("figure3", "MODEL=tiny") == {"table25", "table26", "table29", "table30", *shares}
    assert "python -m trace_cl.tables trace --model tiny\n" in make("-n", "table_trace", "MODEL=tiny").stdout


def test_n_shows_the_commands_a_user_would_type() -> None:
    shown = make("-n", "table33", "MODEL=tiny", "SEEDS=1 2", "JOBS=2").stdout
    setting = "experiment=table33 seed=1,2 model=tiny"
    assert f"python -m trace_cl.launch.preflight {setting};" in shown
    assert f"python -m trace_cl -m {setting} hydra/launcher=joblib hydra.launcher.n_jobs=2;" in shown
    assert "python -m trace_cl.tables 33 --model tiny --tried " in shown
    assert "joblib" not in make("-n", "table33").stdout


@pytest.mark.parametrize(
    ("able", "run", "started", "code"),
    [(0, 0, True, 0), (0, 1, True, 1), (0, 2, True, 2), (1, 0, False, 0)],
    ids=["made", "a run fails", "a run is refused", "cannot be made here"],
)
def test_the_table_is_rendered_whatever_happens(able: int, run: int, started: bool, code: int, tmp_path: Path) -> None:
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    log = tmp_path / "log"
    done = make("table33", "MODEL=tiny", f"BIN={tmp_path}", LOG=str(log), ABLE=str(able), RUN=str(run))
    assert (done.returncode != 0) == (code != 0)
    assert (f"Error {code}" in done.stderr) == (code != 0)
    setting = "experiment=table33 seed=1 model=tiny"
    assert log.read_text().splitlines() == [
        f"-m trace_cl.launch.preflight {setting}",
        *([f"-m trace_cl -m {setting}"] if started else []),
        "-m trace_cl.tables 33 --model tiny --tried",
    ]


def test_a_gpu_is_measured_at_the_scale_that_is_asked_for() -> None:
    asked = make("-n", "--no-print-directory", "bench-gpu", "BENCH_SCALE=small", "ARGS=--parts full").stdout
    assert asked == "BENCH_SCALE=small .venv/bin/python benchmarks/gpu.py --parts full\n"
    assert "BENCH_SCALE=large " in make("-n", "bench-gpu").stdout


def test_an_unknown_table_is_refused() -> None:
    done = make("table23")
    assert done.returncode == 2
    assert "there is no table 23: choose 3, 4, 5, 7, 10, 12, or 24 to 42" in done.stderr


def package(name: str, **said: object) -> dict[str, object]:
    """What pip-audit says of one package."""
    return {"name": name, "version": "1.0", **said}


CLEAN = package("a", vulns=[])
FLAWED = package("b", vulns=[{"id": "PYSEC-1", "fix_versions": ["1.1"]}])
UNKNOWN = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited: c (1.0)"}


@pytest.mark.parametrize(
    ("report", "sentence", "code", "required"),
    [
        ([CLEAN, CLEAN], "audit: 0 known vulnerabilities in 2 of 2 packages", 0, 0),
        ([CLEAN, FLAWED], "b 1.0: PYSEC-1, mended in 1.1", 2, 2),
        ([CLEAN, UNKNOWN], "NOT audited, because the service does not know them: c", 0, 2),
        ([UNKNOWN, FLAWED], "audit: 1 known vulnerabilities in 1 of 2 packages", 2, 2),
        ([UNKNOWN, UNKNOWN], "NOT audited: no advisory service can be reached from here", 0, 2),
        (None, "NOT audited: no advisory service can be reached from here", 0, 2),
    ],
    ids=["none found", "found", "one unknown", "one unknown, one found", "all unknown", "pip-audit fails"],
)
def test_an_audit_that_could_not_be_made_is_no_pass(
    report: list[object] | None, sentence: str, code: int, required: int, tmp_path: Path
) -> None:
    says = "" if report is None else json.dumps({"dependencies": report, "fixes": []})
    (tmp_path / "pip-audit").write_text(f"#!/bin/sh\necho '{says}'\nexit 1\n")
    (tmp_path / "pip-audit").chmod(0o755)
    for setting, expected in (("", code), ("required", required)):
        done = make("audit", f"BIN={tmp_path}", f"AUDIT={setting}")
        assert done.returncode == expected
        assert sentence in done.stdout
        assert ("0 known" in done.stdout) == (report is not None and CLEAN in report and FLAWED not in report)
