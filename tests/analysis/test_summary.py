"""The table of finished runs, by hand."""

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


def test_nothing_finished_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runs", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: no finished run under")
