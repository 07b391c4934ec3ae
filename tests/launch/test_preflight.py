"""What is said before a table's runs are started, of the runs that this machine cannot make."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from trace_cl.launch.preflight import main
from trace_cl.records.files import PUBLISHED


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU, no weights, no hub, no TRACE data."""

    def nothing_cached(*_: object, **__: object) -> None:
        raise LocalEntryNotFoundError("not there")

    monkeypatch.delenv("TRACE_ROOT", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("trace_cl.training.model.snapshot_download", nothing_cached)
    monkeypatch.setattr("trace_cl.training.model.ENDPOINT", "http://127.0.0.1:9")


def test_everything_that_is_missing_stands_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment=table29,table36", "seed=1,2", f"runs_dir={tmp_path}"]) == 1
    [sentence] = capsys.readouterr().err.splitlines()
    assert sentence == (
        "4 of 4 missing runs cannot be made on this machine, which lacks a GPU; "
        "the data (benchmark=trace needs its data: set benchmark.root=DIR or $TRACE_ROOT "
        "to the folder that holds a folder a task); "
        "the weights of llama2-chat-13b (meta-llama/Llama-2-13b-chat-hf is not on this machine, "
        "and the Hugging Face hub cannot be reached); "
        "the weights of llama2-chat-7b (meta-llama/Llama-2-7b-chat-hf is not on this machine, "
        "and the Hugging Face hub cannot be reached)"
    )


def test_what_is_there_is_not_asked_for(
    small_model: Path, small_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = [f"model.path={small_model}", f"benchmark.root={small_root}", f"runs_dir={tmp_path}"]
    assert main(["experiment=table29", *local]) == 1
    assert capsys.readouterr().err == "1 of 1 missing runs cannot be made on this machine, which lacks a GPU\n"
    assert main(["experiment=table29", *local, "device=cpu"]) == 0, "whoever asks for the CPU gets it"
    assert main(["experiment=table29", *local, "model=smollm2-135m"]) == 0, "small enough for a CPU"


def test_a_complete_run_needs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("seqft", "gem"):
        folder = tmp_path / "trace" / "llama2-chat-7b" / method / "seed1"
        shutil.copytree(PUBLISHED / "llama2-chat-7b" / method, folder)
    assert main(["experiment=table29,table31", f"runs_dir={tmp_path}"]) == 1
    assert capsys.readouterr().err == "", "there is nothing to be made"
    assert main(["experiment=table29,table30,table31", f"runs_dir={tmp_path}"]) == 1
    assert capsys.readouterr().err.startswith("1 of 1 missing runs cannot be made")


def test_some_can_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=tiny,llama2-chat-7b", "hft=true,false", f"runs_dir={tmp_path}"]) == 0
    assert capsys.readouterr().err.startswith("2 of 4 missing runs cannot be made")
    assert main(["experiment=table29", "model=tiny", f"runs_dir={tmp_path}"]) == 0
    assert capsys.readouterr().err == ""


def test_bad_input_is_the_sweeps_to_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment=table29", "model=tny"]) == 0
    assert main(["strategy=lora_seqft", "hft=true"]) == 0
    assert capsys.readouterr().err == ""
