"""Several orders of the tasks: the spreads by hand, where they are shown, and that a real sweep makes them."""

import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from support import compose

from trace_cl.analysis import plots, summary
from trace_cl.analysis.orders import by_order, section, sentence, spread
from trace_cl.analysis.stored import find
from trace_cl.build import build_strategy
from trace_cl.config import check
from trace_cl.identity import run_folder


def stored(runs: Path, *overrides: str, kept: float, learned: float = 50) -> Path:
    """A finished run of the embedded benchmark: every task at `learned` after its round, at `kept` after the last."""
    config = compose(f"runs_dir={runs}", *overrides)
    check(config)
    method = build_strategy(config).name
    folder = run_folder(config, method)
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"method": method}))
    OmegaConf.save(config, folder / "config.yaml", resolve=True)
    tasks = list(config.benchmark.order)
    scores = np.full((len(tasks), len(tasks)), learned)
    scores[-1] = kept
    rows = [",".join([str(t), *map(str, row[:t]), *[""] * (len(tasks) - t)]) for t, row in enumerate(scores, start=1)]
    (folder / "matrix.csv").write_text("\n".join([",".join(["round", *tasks]), *rows]) + "\n")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """SeqFT in two orders of two seeds and a random one of one; GEM in one order."""
    for seed, order, kept in ((1, "1", 10), (2, "1", 14), (1, "2", 20), (2, "2", 22), (1, "random3", 30)):
        stored(tmp_path, f"benchmark.order={order}", f"seed={seed}", kept=kept)
    stored(tmp_path, "strategy=gem", kept=40)
    return tmp_path


def test_spreads_by_hand(runs: Path) -> None:
    [seqft] = by_order(find(runs))
    assert seqft.method == "seqft"
    assert {order: len(seeds) for order, seeds in seqft.runs.items()} == {"1": 2, "2": 2, "random3": 1}
    assert seqft.values("OP") == {"1": [10, 14], "2": [20, 22], "random3": [30]}
    middle, orders, seeds = spread(seqft.values("OP"))
    assert middle == 21  # of 12, 21 and 30
    assert orders == 9
    assert seeds == pytest.approx(5**0.5)  # the variances are 8 and 2
    said = sentence(seqft)
    assert said == (
        "seqft: OP 21.0; the order moves it by ± 9.0, another seed by ± 2.2, of which ± 1.7 is left in an order's mean."
    ), "a mean of 5/3 seeds an order"
    assert "| seqft | 3 | 1–2 | 21.0 | 9.0 | 2.2 | " in section([seqft])


def test_of_one_seed_each_there_is_no_spread_over_seeds(tmp_path: Path) -> None:
    for order in ("1", "2"):
        stored(tmp_path, f"benchmark.order={order}", kept=int(order))
    [seqft] = by_order(find(tmp_path))
    assert spread(seqft.values("OP"))[2] is None
    assert sentence(seqft) == "seqft: OP 1.5; the order moves it by ± 0.7, another seed by ± –."


def test_other_settings_are_apart(tmp_path: Path) -> None:
    stored(tmp_path, "benchmark.order=1", kept=10)
    stored(tmp_path, "benchmark.order=2", "training.clip_norm=0.5", kept=20)
    assert by_order(find(tmp_path)) == []
    assert section([]) == ""


def test_fewer_tasks_are_no_other_order(tmp_path: Path) -> None:
    """What is learned of two tasks is one thing, and of eight another."""
    stored(tmp_path, kept=10)
    for order in ("[FOMC,Py150]", "[Py150,FOMC]"):
        stored(tmp_path, f"benchmark.order={order}", kept=20)
    [two] = by_order(find(tmp_path))
    assert two.method == "seqft of FOMC, Py150"
    assert [len(seeds) for seeds in two.runs.values()] == [1, 1]


def test_results_and_the_picture_show_it(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert summary.main(["--runs", str(runs)]) == 0
    printed = capsys.readouterr().out
    assert "**Over orders of the tasks**" in printed
    assert "| seqft-order2 | 2 | 21.0 ± 1.4 |" in printed, "each order by itself too"
    assert plots.main(["orders", "--runs", str(runs), "--out", str(tmp_path / "plots")]) == 0
    assert (tmp_path / "plots" / "orders.png").stat().st_size > 5_000
    capsys.readouterr()
    assert plots.main(["curves", "--runs", str(runs), "--out", str(tmp_path / "plots")]) == 0
    said = capsys.readouterr().err
    assert said.count("in another order of the tasks, left out") == 3
    assert "seqft-order2/seed1" in said


def test_without_several_orders_there_is_nothing_to_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored(tmp_path, kept=10)
    assert plots.main(["orders", "--runs", str(tmp_path)]) == 2
    assert "-m benchmark.order=1,2 makes them" in capsys.readouterr().err
