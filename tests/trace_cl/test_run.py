"""Whole runs of a small model: what they leave behind, and that they go on where they stopped."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from support import TASKS, Killed, compose, find_trace_root, killed_at, only_run, results
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from trace_cl import evaluation
from trace_cl import run as runner
from trace_cl.analysis import report
from trace_cl.errors import UserError
from trace_cl.metrics import METRICS, backward_transfer, overall_performance
from trace_cl.records.files import read_matrix
from trace_cl.records.journal import Journal
from trace_cl.run import start
from trace_cl.strategies.base import Example, Round
from trace_cl.strategies.seqft import SeqFT
from trace_cl.tiny import CHECKPOINT
from trace_cl.training.model import load_tokenizer
from trace_cl.training.torch_engine import TorchLearner

Run = Callable[..., Path]


@pytest.mark.usefixtures("drawn")
def test_what_a_run_leaves(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run()
    frame = pd.read_csv(folder / "matrix.csv")
    assert list(frame.columns) == ["round", *TASKS]
    matrix = frame.drop(columns="round")
    assert [int(row.notna().sum()) for _, row in matrix.iterrows()] == [1, 2, 3]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["complete"] is True
    assert summary["OP"] == [overall_performance(matrix, t) for t in (1, 2, 3)]
    assert summary["BWT"] == [backward_transfer(matrix, t) for t in (1, 2, 3)]
    assert summary["zero_shot"].keys() == set(TASKS)
    assert summary["needs_task_id"] is False
    steps = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    # 12 examples in batches of 5: three steps an epoch, for 5, 3 and 2 epochs.
    assert [sum(step["round"] == t for step in steps) for t in (1, 2, 3)] == [15, 9, 6]
    assert all(step["lr"] == 0.01 for step in steps)
    record = json.loads((folder / "rounds" / "round2.json").read_text())
    assert (record["optimizer_steps"], record["trainable_share"], record["frozen_modules"]) == (9, 1.0, [])
    assert record["extra_bytes"] == {"device": 0, "host": 0}
    assert record["tokens"] == sum(step["tokens"] for step in steps if step["round"] == 2)
    for picture in ("heatmap.png", "curves.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
        assert f"]({picture})" in (folder / "report.md").read_text()
    assert "| FOMC |" in (folder / "report.md").read_text()
    printed = capsys.readouterr().out
    assert "OP" in printed
    assert "BWT" in printed
    AutoModelForCausalLM.from_pretrained(folder / "checkpoint")
    AutoTokenizer.from_pretrained(folder / "checkpoint")
    assert not [*folder.rglob("*.tmp"), *folder.glob("*.old")]


def test_a_short_run_draws_at_its_first_round_and_its_last(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def draw(method: str, title: str, scores: pd.DataFrame) -> dict[str, bytes]:
        drawn.append(title.partition(" after ")[2])
        return {}

    monkeypatch.setattr(report, "pictures", draw)
    run()
    assert drawn == ["1 of 3 rounds", "3 of 3 rounds"]


def test_a_score_can_be_recomputed_from_the_predictions(run: Run, small_root: Path) -> None:
    folder = run()
    lines = [json.loads(line) for line in (folder / "predictions/round3/MeetingBank.jsonl").read_text().splitlines()]
    references = [row["answer"] for row in json.loads((small_root / "MeetingBank" / "test.json").read_text())]
    assert [line["reference"] for line in lines] == references
    scores = METRICS["rouge_l"]([line["prediction"] for line in lines], references)
    assert [line["score"] for line in lines] == scores
    matrix = read_matrix(folder / "matrix.csv")
    assert matrix.loc[3, "MeetingBank"] == sum(scores) / len(scores)


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(run: Run, tmp_path: Path) -> None:
    first = results(run("hft=true", method="seqft+hft"))
    second = results(run("hft=true", f"runs_dir={tmp_path}/again"))
    assert first == second
    other = run("hft=true", "seed=2", method="seqft+hft")
    assert results(other)["predictions/round0/FOMC.jsonl"] == first["predictions/round0/FOMC.jsonl"]
    frozen = [
        json.loads((f / "rounds/round1.json").read_text())["frozen_modules"] for f in (other, other.parent / "seed1")
    ]
    assert frozen[0] != frozen[1]


@pytest.mark.parametrize(
    ("where", "calls"),
    [
        pytest.param((TorchLearner, "step"), 18, id="in the middle of a round"),
        pytest.param((runner.Run, "keep"), 2, id="between a round's training and its checkpoint"),
        pytest.param((evaluation, "generate"), 5, id="in the middle of an evaluation"),
        pytest.param((Journal, "finish_round"), 3, id="between the report and the matrix's last row"),
    ],
)
def test_a_killed_run_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[object, str], calls: int
) -> None:
    whole = results(run("hft=true", method="seqft+hft"))
    owner, name = where
    original, left = getattr(owner, name), [calls]

    def killed(*args: object, **kwargs: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return original(*args, **kwargs)

    again = (f"runs_dir={tmp_path}/again", "hft=true")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(Killed):
            run(*again)
    folder = only_run(tmp_path / "again")
    assert len((folder / "matrix.csv").read_text().splitlines()) in (2, 3)
    run(*again)
    assert results(folder) == whole
    steps = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert [(s["round"], s["step"]) for s in steps] == [
        (t, s + 1) for t, n in ((1, 15), (2, 9), (3, 6)) for s in range(n)
    ]
    assert json.loads((folder / "summary.json").read_text())["complete"]


def test_a_finished_run_is_shown_not_repeated(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run()
    monkeypatch.setattr(runner, "open_run", None)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    run()
    assert "is complete" in capsys.readouterr().out
    assert before == {file: file.stat().st_mtime_ns for file in folder.rglob("*")}


def test_another_configuration_in_the_same_place_is_refused(run: Run) -> None:
    """Another configuration has another place; it has come to lie here by hand, or by an earlier version."""
    folder = run()
    before, path = results(folder), folder / "config.yaml"
    own = path.read_text()
    path.write_text(own.replace("eps: 1.0e-08", "eps: 1.0e-06"))
    with pytest.raises(UserError, match=r"training\.eps \(1e-06 there, 1e-08 here\)"):
        run()
    assert results(folder) == before
    path.write_text(own)
    run("training.tokens_per_batch=100", "benchmark.root=/elsewhere")  # what only changes speed or place is not refused


def test_other_data_in_the_same_place_is_refused(
    run: Run, small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(runner.Run, "keep", killed_at(runner.Run.keep, 1))
        with pytest.raises(Killed):
            run()
    other = tmp_path / "other"
    other.mkdir()
    for task in (*TASKS, "Lima"):
        (other / task).mkdir()
        for split in ("train", "eval", "test"):
            rows = json.loads((small_root / task / f"{split}.json").read_text())
            (other / task / f"{split}.json").write_text(json.dumps(rows[:-1]))
    with pytest.raises(UserError, match="other data"):
        run(f"benchmark.root={other}")


def test_two_processes_do_not_write_the_same_run(run: Run) -> None:
    folder = run()
    (folder / "matrix.csv").unlink()
    other = Journal(folder, TASKS)
    with other.lock(), pytest.raises(UserError, match="is being run by another process"):
        run()


def test_a_run_that_cannot_begin_leaves_nothing(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model"):
        run(f"model.path={tmp_path}")
    assert not (tmp_path / "runs").exists()


def test_pickled_weights_are_refused(run: Run, small_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    for file in small_model.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="never read from pickle"):
        run(f"model.path={folder}")


def test_damaged_weights_are_refused(run: Run, small_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in small_model.iterdir():
        content = file.read_bytes()
        (folder / file.name).write_bytes(content[:1000] if file.suffix == ".safetensors" else content)
    with pytest.raises(UserError, match="is no whole safetensors file"):
        run(f"model.path={folder}")


def test_a_loss_that_is_not_finite_names_round_and_step(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original, calls = TorchLearner.backward, [0]

    def diverging(self: TorchLearner, examples: list[Example]) -> float:
        calls[0] += 1
        return float("nan") if calls[0] == 17 else original(self, examples)

    monkeypatch.setattr(TorchLearner, "backward", diverging)
    with pytest.raises(UserError, match=r"the loss is nan in round 2 \(FOMC\), step 2"):
        run()
    assert len((only_run(tmp_path / "runs") / "matrix.csv").read_text().splitlines()) == 2


def test_all_checkpoints_can_be_kept(run: Run) -> None:
    folder = run("checkpoints=all")
    assert sorted(path.name for path in folder.glob("checkpoint*")) == [
        "checkpoint", "checkpoint-round1", "checkpoint-round2", "checkpoint-round3",
    ]  # fmt: skip


def test_the_compat_variant_makes_the_matrix_when_asked(run: Run) -> None:
    folder = run("metrics.variant=trace_compat")
    lines = [json.loads(line) for line in (folder / "predictions/round3/MeetingBank.jsonl").read_text().splitlines()]
    assert all(line["score"] == line["trace_compat"] for line in lines)


def test_a_qwen2_with_biases_gqa_and_tied_embeddings_runs(run: Run, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(CHECKPOINT))
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "qwen")
    tokenizer.save_pretrained(tmp_path / "qwen")
    folder = run("hft=true", f"model.path={tmp_path / 'qwen'}", "benchmark.order=[FOMC,C-STANCE]", method="seqft+hft")
    assert json.loads((folder / "summary.json").read_text())["complete"]
    record = json.loads((folder / "rounds/round1.json").read_text())
    before = Qwen2ForCausalLM.from_pretrained(tmp_path / "qwen")
    assert any(
        "q_proj" in name
        for t in (1, 2)
        for name in json.loads((folder / f"rounds/round{t}.json").read_text())["frozen_modules"]
    )
    assert 0.4 < record["trainable_share"] < 0.6  # three layers: the MLP's share is drawn up or down
    assert before.lm_head.weight is before.model.embed_tokens.weight


def test_real_data_through_the_tiny_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(
        compose(
            "benchmark=trace",
            f"benchmark.root={find_trace_root()}",
            "benchmark.order=[FOMC,Py150]",
            "benchmark.max_train=8",
            "benchmark.max_test=2",
            "evaluation.zero_shot=false",
            "benchmark.tasks.Py150.epochs=1",
            "benchmark.tasks.Py150.answer_tokens=24",
            f"runs_dir={tmp_path}",
        )
    )
    lines = (only_run(tmp_path) / "matrix.csv").read_text().splitlines()
    assert lines[0] == "round,FOMC,Py150"
    assert "data: FOMC: " in capsys.readouterr().err, "its eval and test splits overlap in whichever part lies here"
    assert len(lines) == 3


def test_seqft_lets_everything_learn(small_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(small_model)
    assert SeqFT().trainable(Round(1, [], []), 0, model) == [name for name, _ in model.named_parameters()]
