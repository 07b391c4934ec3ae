"""What each logger holds at the end, read back by its own reader, is what train.jsonl and matrix.csv hold."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep
from typing import Any

import pandas as pd
import pytest
from support import Killed, compose
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trace_cl.build import build_logger
from trace_cl.errors import UserError
from trace_cl.records.loggers import MLflow, NoLogger, TensorBoard, WeightsAndBiases, training_curves
from trace_cl.training.torch_engine import TorchLearner

Run = Callable[..., Path]
Curves = dict[str, list[tuple[int, float]]]


def expected(folder: Path) -> Curves:
    """Every curve of a finished run, from its own files."""
    lines = [json.loads(line) for line in (folder / "train.jsonl").open()]
    summary = json.loads((folder / "summary.json").read_text())
    matrix = pd.read_csv(folder / "matrix.csv", index_col="round")
    curves = {
        f"train/{key}": [(step, line[key]) for step, line in enumerate(lines, 1)]
        for key in ("loss", "lr", "gradient_norm")
    }
    curves["train/tokens_per_second"] = [
        (step, line["tokens"] / max(line["seconds"], 0.001)) for step, line in enumerate(lines, 1)
    ]
    for task in matrix:
        curves[f"score/{task}"] = [(0, summary["zero_shot"][task]), *read_scores(matrix[task])]
    return curves | {name: list(enumerate(summary[name], start=1)) for name in ("OP", "BWT", "learned")}


def read_scores(column: pd.Series) -> list[tuple[int, float]]:
    """A task's scores by round."""
    return [(t, score) for t, score in enumerate(column.tolist(), start=1) if not pd.isna(score)]


def same(found: Curves, expected: Curves, but: str = "") -> None:
    assert found.keys() == expected.keys()
    for name in expected.keys() - {but}:
        assert [at for at, _ in found[name]] == [at for at, _ in expected[name]], name
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in expected[name]]), name


def broken_off(run: Run, monkeypatch: pytest.MonkeyPatch, steps: int, *overrides: str) -> None:
    """Start a run and kill it before the given optimizer step of its process."""
    original, left = TorchLearner.step, [steps]

    def killed(engine: TorchLearner) -> float:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        norm: float = original(engine)
        return norm

    with monkeypatch.context() as patch:
        patch.setattr(TorchLearner, "step", killed)
        with pytest.raises(Killed):
            run(*overrides)


def test_tensorboard_goes_on_where_the_run_does(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # Round 1 has 15 steps: the run breaks off in round 2, of which 5 steps are written twice.
    broken_off(run, monkeypatch, 21, "logger=tensorboard")
    folder = run("logger=tensorboard")
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    found = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    same(found, expected(folder))


def test_mlflow_goes_on_where_the_run_does(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow-skinny is an extra too heavy for every environment")
    broken_off(run, monkeypatch, 21, "logger=mlflow")
    folder = run("logger=mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    [found] = client.search_runs([client.get_experiment_by_name("trace-cl").experiment_id])
    assert found.info.run_name == "/".join(folder.parts[-4:])
    assert found.info.status == "FINISHED"
    assert found.data.params["training.global_batch"] == "5"
    metrics = {name: client.get_metric_history(found.info.run_id, name) for name in found.data.metrics}
    curves = {name: [(metric.step, metric.value) for metric in history] for name, history in metrics.items()}
    # Of the steps taken twice the first start's speed stands in MLflow, the second's in train.jsonl.
    same(curves, expected(folder), but="train/tokens_per_second")


def records(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format (blocks of 32 KiB) after a header of 7 bytes."""
    at, parts = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:  # too little for another header: the block's end is padding
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_wandb_writes_offline(run: Run) -> None:
    reason = "wandb is an extra too heavy for every environment"
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2", reason=reason)
    folder = run("logger=wandb", "logger.mode=offline")
    [path] = folder.glob("wandb/offline-run-*/*.wandb")
    curves: Curves = {}
    axes: dict[str, str] = {}
    found: list[Any] = []
    for _ in range(100):  # a process of wandb's own writes the file, a little later
        found = [messages.Record.FromString(data) for data in records(path.read_bytes())]
        if found and found[-1].HasField("exit"):
            break
        sleep(0.1)
    for record in found:
        if record.HasField("run"):
            assert record.run.run_id == (folder / "wandb" / "id").read_text()
            assert record.run.display_name == "/".join(folder.parts[-4:])
        if record.HasField("metric"):
            axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        if record.HasField("history"):
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            at = row["step"] if "step" in row else row["round"]
            for name, value in row.items():
                if name not in ("step", "round") and not name.startswith("_"):
                    curves.setdefault(name, []).append((at, value))
    same(curves, expected(folder))
    assert {name: axes[name] for name in ("train/*", "score/*", "OP", "BWT", "learned")} == {
        "train/*": "step", "score/*": "round", "OP": "round", "BWT": "round", "learned": "round",
    }  # fmt: skip


def test_a_run_may_go_on_under_another_logger(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_off(run, monkeypatch, 21)
    folder = run("logger=tensorboard")
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(16, 31))
    assert [event.step for event in events.Scalars("OP")] == [2, 3]


def test_what_a_strategy_tells_of_a_step_has_its_curve() -> None:
    line = {"round": 2, "step": 1, "tokens": 300, "seconds": 0.0, "loss": 2.0, "projected": True, "dual": [0.5]}
    assert training_curves(line) == {"train/loss": 2.0, "train/projected": 1.0, "train/tokens_per_second": 300_000.0}


@pytest.mark.parametrize(
    ("choice", "kind"),
    [("none", NoLogger), ("tensorboard", TensorBoard), ("wandb", WeightsAndBiases), ("mlflow", MLflow)],
)
def test_the_choices(choice: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trace_cl.records.loggers.import_module", lambda name: name)
    assert type(build_logger(compose(f"logger={choice}"))) is kind


def test_a_missing_package_is_named_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr("trace_cl.records.loggers.import_module", missing)
    for extra in ("tensorboard", "wandb", "mlflow"):
        with pytest.raises(UserError, match=rf"^logger={extra} needs {extra}: pip install 'trace-cl\[{extra}\]'$"):
            build_logger(compose(f"logger={extra}"))


def test_a_key_the_logger_has_no_use_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trace_cl.records.loggers.import_module", lambda name: name)
    with pytest.raises(UserError, match=r"^logger\.colour: WeightsAndBiases takes no such value; nearest: "):
        build_logger(compose("logger=wandb", "+logger.colour=red"))
    with pytest.raises(UserError, match=r"^logger\.mode=of is not one of online, offline"):
        build_logger(compose("logger=wandb", "logger.mode=of"))
