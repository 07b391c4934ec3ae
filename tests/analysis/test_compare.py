"""Comparing runs: the bootstrap against known truths and an independent one, the texts by hand."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import norm

from trace_cl import metrics
from trace_cl.analysis.bootstrap import Floats, interval, resample, resampled
from trace_cl.analysis.compare import compare, main, read_runs

SIZES = (100, 100, 50, 100, 50, 100)


class World:
    """Two runs over six tasks, each with its own true score for every task when learned and at the end."""

    def __init__(self) -> None:
        generator = np.random.default_rng(1)
        self.learned = generator.uniform(0.5, 0.95, (len(SIZES), 2))
        self.kept = self.learned * generator.uniform(0.05, 1, (len(SIZES), 2))
        self.kept[-1] = self.learned[-1]
        figures = 100 * np.stack([self.kept.mean(axis=0), (self.kept - self.learned).mean(axis=0)], axis=-1)
        self.truth = with_gain(figures)

    def draw(self, generator: np.random.Generator) -> list[Floats]:
        """Examples × runs × (OP's part, BWT's part) a task: runs and rounds share what makes an example hard."""
        tasks = []
        for number, n in enumerate(SIZES):
            example, run, round = (generator.normal(size=(n, *shape)) for shape in ((1, 1), (2, 1), (2, 2)))
            ease = np.sqrt(0.4) * example + np.sqrt(0.3) * run + np.sqrt(0.3) * round  # standard normal
            mark = norm.ppf(np.stack([self.kept[number], self.learned[number]], axis=-1))
            accuracy = np.where(ease < mark, 100.0, 0.0)  # E [Z < m] = Φ(m)
            graded = 100 * norm.cdf(np.sqrt(2) * mark + ease)  # like ROUGE-L; E Φ(√2·m + Z) = Φ(m)
            at_end, learned = np.moveaxis(graded if number % 3 == 2 else accuracy, -1, 0)
            if number == len(SIZES) - 1:
                at_end = learned
            tasks.append(np.stack([at_end, at_end - learned], axis=-1))
        return tasks


def bootstrap(tasks: Sequence[Floats], draws: int, seed: int = 0) -> Floats:
    """The mean over the tasks, on every resample of their examples."""
    means: Floats = np.mean(resample(tasks, draws, seed), axis=0)
    return means


def with_gain(figures: Floats) -> Floats:
    """… × 2 runs × 2 figures, and below them the second run's gain: … × 3 × 2."""
    return np.concatenate([figures, figures[..., 1:, :] - figures[..., :1, :]], axis=-2)


def test_intervals_hold_the_truth_in_95_of_100_cases() -> None:
    world, generator, held = World(), np.random.default_rng(5), np.zeros((3, 2))
    for trial in range(1000):
        lower, upper = interval(with_gain(bootstrap(world.draw(generator), draws=1000, seed=trial)))
        held += (lower <= world.truth) & (world.truth <= upper)
    assert (held >= 930).all(), held
    assert (held <= 970).all(), held


def test_the_interval_is_scipys() -> None:
    """One task: the paired difference of two means."""
    generator = np.random.default_rng(2)
    first = generator.beta(0.5, 0.5, 80) * 100
    second = np.clip(first + generator.normal(8, 20, 80), 0, 100)
    ours = interval(with_gain(bootstrap([np.stack([first, second], axis=1)[..., np.newaxis]], draws=50_000)))[:, 2, 0]
    theirs = scipy_bootstrap(
        (first, second),
        lambda a, b, axis: b.mean(axis=axis) - a.mean(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=50_000,
        rng=3,
    ).confidence_interval
    assert ours == pytest.approx([theirs.low, theirs.high], abs=0.15)
    assert theirs.high - theirs.low == pytest.approx(9, abs=1), "the tolerance is a sixtieth of the width"


def test_several_tasks_are_the_normal_interval() -> None:
    """The mean of independent means has variance 1/T² · Σ s²/n."""
    generator = np.random.default_rng(4)
    tasks = [generator.normal(50, deviation, (n, 1, 1)) for deviation, n in ((5, 200), (30, 400), (10, 100))]
    middle = np.mean([task.mean() for task in tasks])
    error = np.sqrt(sum(task.var() / len(task) for task in tasks)) / len(tasks)
    expected = [middle - 1.96 * error, middle + 1.96 * error]
    assert interval(bootstrap(tasks, draws=50_000))[:, 0, 0] == pytest.approx(expected, abs=0.03 * error)


Scores = dict[tuple[int, str], Sequence[float]]

FIRST: Scores = {(1, "a"): [100, 100, 0, 0], (2, "a"): [0, 0, 0, 0], (2, "b"): [80, 60]}
SECOND: Scores = {(1, "a"): [100, 0, 0, 0], (2, "a"): [100, 0, 0, 0], (2, "b"): [80, 70]}


def stored(folder: Path, scores: Scores, reference: str = "yes", **config: object) -> Path:
    """A run's folder as the journal writes it: tasks a and b, as many rounds as there are scores for."""
    settings = {"benchmark.name": "toy", "metrics.variant": "standard", "seed": 1, "runs_dir": str(folder), **config}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
    for (round, task), values in scores.items():
        path = folder / "predictions" / f"round{round}" / f"{task}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            {"index": index, "prediction": "a line\u2028and another", "reference": reference, "score": score}
            for index, score in enumerate(values)
        ]
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    means = {key: sum(values) / len(values) for key, values in scores.items()}
    rows = [f"{t},{means[t, 'a']},{means.get((t, 'b'), '')}\n" for t in (1, 2) if (t, "a") in means]
    (folder / "matrix.csv").write_text("round,a,b\n" + "".join(rows))
    return folder


def test_two_runs_by_hand(tmp_path: Path) -> None:
    first = stored(tmp_path / "seqft" / "seed1", FIRST, hft=False)
    second = stored(tmp_path / "seqft+hft" / "seed1", SECOND, hft=True)
    lines = compare([first, second]).splitlines()
    assert lines[0] == "# seqft+hft/seed1 against seqft/seed1"
    table = [[cell.partition(" [")[0] for cell in line.strip("| ").split(" | ")] for line in lines[4:12]]
    assert table == [
        ["figure", "seqft/seed1", "seqft+hft/seed1", "gain"],
        ["---", "---:", "---:", "---:"],
        ["OP", "35.0", "50.0", "+15.0"],  # (0 + 70) / 2 and (25 + 75) / 2
        ["BWT", "-25.0", "0.0", "+25.0"],  # (0 - 50) / 2 and 0
        ["learned", "60.0", "50.0", "-10.0"],  # (50 + 70) / 2 and (25 + 75) / 2
        ["mean OP", "42.5", "37.5", "-5.0"],  # (50 + 35) / 2 and (25 + 50) / 2
        ["BWT, t−1", "-50.0", "0.0", "+50.0"],
        ["forgetting", "50.0", "0.0", "-50.0"],
    ]
    assert "| hft | False | True |" in lines
    assert not any("runs_dir" in line or "| seed |" in line for line in lines)
    assert lines[-5:] == [
        "| a | -25.0 | +25.0 |",
        "| b |  | +5.0 |",
        "| OP | -25.0 | +15.0 |",
        "| BWT | +0.0 | +25.0 |",
        "| learned | -25.0 | -10.0 |",
    ]


def test_who_is_told_the_task_is_named(tmp_path: Path) -> None:
    first, second = stored(tmp_path / "gem" / "seed1", FIRST), stored(tmp_path / "prompts" / "seed1", SECOND)
    assert "which task a text" not in compare([first, second])
    (first / "summary.json").write_text('{"needs_task_id": false}')
    (second / "summary.json").write_text('{"needs_task_id": true}')
    assert " To answer, prompts/seed1 has to be told which task a text belongs to." in compare([first, second])


def test_where_a_round_trained_nothing_there_is_no_bwt(tmp_path: Path) -> None:
    first, second = stored(tmp_path / "one", FIRST), stored(tmp_path / "two", SECOND)
    (second / "summary.json").write_text('{"untrained_rounds": [1]}')
    lines = compare([first, second]).splitlines()
    [line] = [line for line in lines if line.startswith("| BWT | -")]
    assert line.endswith("| – | – |")
    assert not any(line.startswith("| FWT") for line in lines), "what no run has is left out"
    assert lines[-2:] == ["| BWT | – | – |", "| learned | – | – |"]


def test_a_pair_that_differs_evenly_has_a_gain_without_width(tmp_path: Path) -> None:
    """The same examples are drawn for both runs and for both rounds, so what is the same for all examples stays so."""
    lower: Scores = {key: [value * 0.9 for value in values] for key, values in FIRST.items()}
    better: Scores = {key: [value + 3 for value in values] for key, values in lower.items()}
    runs = read_runs([stored(tmp_path / "one", lower), stored(tmp_path / "two", better)])
    first, second = resampled(runs, 2, draws=200)
    for figure, gain in zip(metrics.FIGURES, (3, 0, 3), strict=True):
        assert figure.name != "OP" or np.ptp(first.figure(figure)) > 5, "the runs' own figures do vary"
        assert second.figure(figure) - first.figure(figure) == pytest.approx([gain] * 200)


def test_an_unfinished_run_is_compared_after_the_last_common_round(tmp_path: Path) -> None:
    first = stored(tmp_path / "one", FIRST)
    second = stored(tmp_path / "two", {key: values for key, values in SECOND.items() if key[0] == 1})
    text = compare([first, second])
    assert "/two is unfinished: 1 of 2 rounds. All is compared after round 1." in text
    assert "## Figures after round 1" in text
    assert "| BWT | +0.0 |\n" in text


def test_a_real_run_is_compared_as_its_summary_says(run: Callable[..., Path]) -> None:
    folders = [run(), run("hft=true", method="seqft+hft")]
    text = compare(folders)
    for folder in folders:
        summary = json.loads((folder / "summary.json").read_text())
        for figure in ("OP", "BWT"):
            [line, *_] = [line for line in text.splitlines() if line.startswith(f"| {figure} | ")]
            assert f"| {summary[figure][-1]:z.1f} [" in line


def broken(folder: Path) -> Path:
    """A run without the predictions of its last round."""
    (stored(folder, SECOND) / "predictions" / "round2" / "a.jsonl").unlink()
    return folder


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (lambda folder: folder, "is no run with a finished round: it holds no matrix.csv"),
        (lambda folder: Path("runs/published/llama2-chat-7b/seqft"), "holds no predictions, as published runs do not"),
        (broken, "round2/a.jsonl is missing: an interval needs every example's score"),
        (lambda folder: stored(folder, SECOND, **{"benchmark.name": "trace"}), "their benchmarks differ (trace, toy)"),
        (
            lambda folder: stored(folder, SECOND, **{"metrics.variant": "x"}),
            "their variants of the metrics differ (x, standard)",
        ),
        (lambda folder: stored(folder, SECOND, reference="no"), "on other test examples of a in round 1 than"),
        (lambda folder: stored(folder, {**SECOND, (2, "b"): [80]}), "on other test examples of b in round 2 than"),
        (lambda folder: folder.parent / "one", "name two or more different runs"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    other: Callable[[Path], Path], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = stored(tmp_path / "one", FIRST)
    assert main([str(first), str(other(tmp_path / "two"))]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert sentence in printed.err
    assert printed.err.count("\n") == 1


def test_another_order_of_the_same_tasks_is_no_hindrance(tmp_path: Path) -> None:
    """Task a first and then b; b first and then a."""
    first, other = (stored(tmp_path / name, FIRST) for name in ("one", "two"))
    (other / "predictions/round1/a.jsonl").unlink()
    shutil.copy(other / "predictions/round2/b.jsonl", other / "predictions/round1")
    (other / "matrix.csv").write_text("round,b,a\n1,70,\n2,70,0\n")
    text = compare([first, other])
    # Of four examples all drawn are right, or all wrong, in one case of 16 each.
    assert "| BWT | -25.0 [-50.0, 0.0] | 0.0 [0.0, 0.0] | +25.0 [+0.0, +50.0] |" in text
    assert "less those of" not in text, "rounds of different tasks are not subtracted"


def test_other_tasks_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [stored(tmp_path / name, FIRST) for name in ("one", "two")]
    matrix = folders[1] / "matrix.csv"
    matrix.write_text(matrix.read_text().replace("a,b", "a,c"))
    assert main([str(folder) for folder in folders]) == 2
    assert "their tasks differ (a c, a b)" in capsys.readouterr().err
