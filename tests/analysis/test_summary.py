"""The table of finished runs, by hand."""

import json
from pathlib import Path

import pytest

from trace_cl.analysis.summary import main

HEADER = "round,a,b\n"


def matrix(folder: Path, *rows: str) -> None:
    folder.mkdir(parents=True)
    (folder / "matrix.csv").write_text(HEADER + "".join(row + "\n" for row in rows))


def test_several_seeds_are_mean_and_standard_deviation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "embedded" / "tiny"
    matrix(runs / "seqft" / "seed1", "1,80,", "2,40,60")  # OP 50, BWT −20, learned 70
    matrix(runs / "seqft" / "seed2", "1,80,", "2,60,64")  # OP 62, BWT −10, learned 72
    matrix(runs / "gem" / "seed1", "1,80,", "2,80,60")
    matrix(runs / "replay" / "seed1", "1,80,")
    assert main(["--runs", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "| seqft | 2 | 56.0 ± 8.5 | -15.0 ± 7.1 | 71.0 ± 1.4 |" in printed.out
    assert "| gem | 1 | 70.0 | 0.0 | 70.0 |" in printed.out
    assert printed.out.index("seqft") < printed.out.index("gem")
    assert printed.err == f"not finished, left out: {runs / 'replay' / 'seed1'}\n"


def test_an_undefined_figure_is_a_dash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    joint = tmp_path / "embedded" / "tiny" / "joint" / "seed1"
    matrix(joint, "1,10,", "2,70,60")
    (joint / "summary.json").write_text('{"untrained_rounds": [1]}')
    assert main(["--runs", str(tmp_path)]) == 0
    assert "| joint | 1 | 65.0 | – | – |" in capsys.readouterr().out


def test_what_a_method_takes_and_has_to_be_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seconds: the mean of 30 and 40; memory: the most of all rounds and seeds, 3 MiB on the device and 1 beside it."""
    runs = tmp_path / "embedded" / "tiny"
    for seed, training in ((1, 20.5), (2, 30.5)):
        folder = runs / "prompts" / f"seed{seed}"
        matrix(folder, "1,80,", "2,40,60")
        seconds = {"training": training, "evaluation": 9.5}
        (folder / "summary.json").write_text(json.dumps({"needs_task_id": True, "seconds": seconds}))
        (folder / "rounds").mkdir()
        for t, extra in ((1, {"device": 0, "host": seed}), (2, {"device": 3 * 2**20, "host": 2**20})):
            (folder / "rounds" / f"round{t}.json").write_text(json.dumps({"extra_bytes": extra}))
    matrix(runs / "old" / "seed1", "1,80,", "2,40,60")
    matrix(runs / "plain" / "seed1", "1,80,", "2,40,60")
    (runs / "plain" / "seed1" / "summary.json").write_text('{"needs_task_id": false}')
    assert main(["--runs", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert " | learned | seconds | extra memory | task identity |\n" in printed
    assert "| 70.0 ± 0.0 | 35 | 4.0 MiB | yes |\n" in printed
    assert "| old | 1 | 50.0 | -20.0 | 70.0 |  |  |  |\n" in printed
    assert "| plain | 1 | 50.0 | -20.0 | 70.0 |  |  | no |\n" in printed
    assert "task identity: whether it has to be told" in printed


def test_nothing_finished_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runs", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: no finished run under")
