"""A run that was stopped, killed or damaged: it goes on to the very same end, or says what is not whole."""

import errno
import fcntl
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from support import TASKS, Killed, compose, everything, killed_at
from transformers import GPT2Config, GPT2LMHeadModel

from trace_cl import speculative
from trace_cl.errors import UserError
from trace_cl.identity import run_folder
from trace_cl.records.answers import Answers
from trace_cl.records.files import write
from trace_cl.records.journal import Journal
from trace_cl.records.seal import SEAL, sealed, unsealed
from trace_cl.run import Run, start
from trace_cl.signals import Stopped, listening, signals
from trace_cl.tiny import CHECKPOINT
from trace_cl.training.model import load_tokenizer
from trace_cl.training.torch_engine import TorchLearner

Configure = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def configure(small_model: Path, small_root: Path) -> Configure:
    """Three rounds of SeqFT, of 15, 9 and 6 steps, that put by what they have every other step."""

    def configured(runs: Path, *overrides: str) -> DictConfig:
        return compose(
            "benchmark=trace",
            f"benchmark.root={small_root}",
            f"benchmark.order=[{','.join(TASKS)}]",
            "benchmark.tasks={MeetingBank:{epochs:2,answer_tokens:6}}",
            f"model.path={small_model}",
            "training.global_batch=5",
            "training.learning_rate=0.01",
            "evaluation.zero_shot=false",
            "checkpoint.every_steps=2",
            "checkpoints=all",
            f"runs_dir={runs}",
            *overrides,
        )

    return configured


def folder_of(config: DictConfig) -> Path:
    return run_folder(config, "seqft")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, configure: Configure) -> dict[str, object]:
    """The run that nothing happened to."""
    config = configure(tmp_path_factory.mktemp("reference"))
    start(config)
    return everything(folder_of(config))


@pytest.fixture(scope="module")
def killed_in_round_3(tmp_path_factory: pytest.TempPathFactory, configure: Configure) -> Path:
    """What lies there of a run that was killed in step 4 of round 3: two rows, three checkpoints, a round's middle."""
    runs = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchLearner, "step", killed_at(TorchLearner.step, 15 + 9 + 4))
        with pytest.raises(Killed):
            start(configure(runs))
    return runs


@pytest.fixture
def config(killed_in_round_3: Path, configure: Configure, tmp_path: Path) -> DictConfig:
    """A copy of it to go on with."""
    shutil.copytree(killed_in_round_3, tmp_path / "runs")
    return configure(tmp_path / "runs")


def steps_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with every optimizer step from now on."""
    made: list[int] = []
    step = TorchLearner.step
    monkeypatch.setattr(TorchLearner, "step", lambda self: made.append(1) or step(self))  # type: ignore[func-returns-value]
    return made


def test_what_is_done_of_a_round_is_not_done_again(
    config: DictConfig, reference: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = steps_made(monkeypatch)
    start(config)
    assert len(made) == 4, "of six steps two are put by"
    assert everything(folder_of(config)) == reference
    assert not (folder_of(config) / "halfway").exists()


def test_a_torn_line_of_the_log_is_dropped(config: DictConfig, reference: dict[str, object]) -> None:
    with (folder_of(config) / "train.jsonl").open("a") as log:
        log.write('{"round": 3, "phase": "MeetingBank", "st}')
    start(config)
    assert everything(folder_of(config)) == reference


def test_interrupted_scoring_goes_on_with_its_answers(
    configure: Configure, tmp_path: Path, reference: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(tmp_path, "evaluation.tokens_per_batch=40")  # a prompt a batch, or two
    added: list[str] = []
    add = Answers.add

    def counted(self: Answers, key: str, rows: list[list[int]]) -> None:
        added.append(key)
        add(self, key, rows)

    monkeypatch.setattr(Answers, "add", counted)
    with monkeypatch.context() as patch:
        patch.setattr(Answers, "add", killed_at(counted, 6))
        with pytest.raises(Killed):
            start(config)
    rank = folder_of(config) / "answers" / "rank0.jsonl"
    rank.write_text(rank.read_text()[:-9])  # what was killed while it wrote its last line
    start(config)
    assert len(added) == len(set(added)) + 1, "the torn one alone was asked for again"
    assert everything(folder_of(config)) == reference
    assert not rank.exists()


def kill_self(asked: int, *, at: int) -> Callable[[TorchLearner], float]:
    """A step in whose middle the system asks something of the run."""
    step, calls = TorchLearner.step, iter(range(1, 1000))

    def stepping(self: TorchLearner) -> float:
        if next(calls) == at:
            os.kill(os.getpid(), asked)
        return step(self)

    return stepping


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_it_finishes_the_step_and_puts_it_by(
    configure: Configure, tmp_path: Path, reference: dict[str, object], asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(tmp_path, "checkpoint.every_steps=null")
    with monkeypatch.context() as patch:
        patch.setattr(TorchLearner, "step", kill_self(asked, at=15 + 3))
        with pytest.raises(Stopped) as stopped:
            start(config)
    assert stopped.value.code == 128 + asked
    assert unsealed(folder_of(config) / "halfway" / SEAL)["step"] == 3
    made = steps_made(monkeypatch)
    start(config)
    assert len(made) == 6 + 6
    assert everything(folder_of(config)) == reference


def test_asked_to_end_while_scoring_it_keeps_the_answers(
    configure: Configure, tmp_path: Path, reference: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(tmp_path)
    evaluate = Run.evaluate

    def asked(self: Run, *arguments: object) -> dict[str, object]:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Run, "evaluate", asked)
        with pytest.raises(Stopped):
            start(config)
    assert len((folder_of(config) / "answers" / "rank0.jsonl").read_text().splitlines()) == 1
    start(config)
    assert everything(folder_of(config)) == reference


def test_warned_it_puts_by_and_goes_on(
    configure: Configure, tmp_path: Path, reference: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(tmp_path, "checkpoint.every_steps=null")
    put_by: list[int] = []
    replacing = Journal.replacing
    monkeypatch.setattr(
        Journal,
        "replacing",
        lambda self, name, about: put_by.append(about().get("step", 0)) or replacing(self, name, about),  # type: ignore[func-returns-value]
    )
    monkeypatch.setattr(TorchLearner, "step", kill_self(signal.SIGUSR1, at=4))
    start(config)
    assert put_by == [4, 0, 0, 0]
    assert everything(folder_of(config)) == reference


def test_asked_twice_it_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise Killed

    monkeypatch.setattr(os, "_exit", leave)
    with listening():
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.end == signal.SIGTERM
        with pytest.raises(Killed):
            os.kill(os.getpid(), signal.SIGINT)
    assert codes == [130]


def cut(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))


def corrupt(path: Path) -> None:
    """Other bytes of the same length."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def replaced(old: str, new: str) -> Callable[[Path], None]:
    return lambda path: write(path, path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("matrix.csv", Path.unlink, "matrix.csv was not what the run wrote"),
        ("matrix.csv", cut, "matrix.csv was not what the run wrote"),
        ("matrix.csv", replaced("2,", "2,900."), "matrix.csv was not what the run wrote"),
        ("rounds/round1.json", Path.unlink, "round1.json was not what the run wrote"),
        ("halfway/weights-00000.safetensors", corrupt, "halfway/weights-00000.safetensors is not what the run wrote"),
        ("halfway/round.json", cut, "halfway/round.json is damaged"),
        ("checkpoint/model.safetensors", corrupt, "checkpoint/model.safetensors is not what the run wrote"),
        ("checkpoint/tokenizer.json", Path.unlink, "checkpoint/tokenizer.json is missing"),
        ("checkpoint/round.json", replaced('"round": 2', '"round": 1'), "checkpoint/round.json is not what"),
        ("checkpoint", shutil.rmtree, ""),
    ],
)
def test_what_is_torn_or_altered_is_named_and_the_last_good_state_counts(
    config: DictConfig,
    reference: dict[str, object],
    capsys: pytest.CaptureFixture[str],
    file: str,
    damage: Callable[[Path], None],
    said: str,
) -> None:
    damage(folder_of(config) / file)
    start(config)
    assert said in capsys.readouterr().err
    assert everything(folder_of(config)) == reference


def test_with_two_checkpoints_lost_the_rounds_since_are_made_again(
    config: DictConfig,
    reference: dict[str, object],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("checkpoint", "checkpoint-round2"):
        corrupt(folder_of(config) / name / "model.safetensors")
    made = steps_made(monkeypatch)
    start(config)
    assert "checkpoint-round1 is of round 1: what came after it is made again" in capsys.readouterr().err
    assert len(made) == 9 + 6
    assert everything(folder_of(config)) == reference


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("checkpoint", shutil.rmtree, r"checkpoint is missing; no other state of the run is whole, and 2 rounds are"),
        ("checkpoint/round.json", replaced('"round": 2', '"round": -1'), r"round\.json is not what the run wrote; no"),
        ("checkpoint/round.json", replaced('"round": 2', '"round": 1'), r"round\.json is not what the run wrote; no"),
        ("checkpoint/model.safetensors", corrupt, r"model\.safetensors is not what the run wrote; no other state"),
        ("manifest.json", Path.unlink, r"manifest\.json is missing beside matrix\.csv"),
        ("manifest.json", cut, r"manifest\.json is damaged"),
        ("manifest.json", replaced('"round": 2', '"round": 1'), r"manifest\.json is not what the run wrote"),
        ("config.yaml", replaced("seed", "- seed"), r"config\.yaml is damaged"),
        ("environment.json", cut, r"environment\.json is damaged"),
    ],
)
def test_what_nobody_can_make_whole_is_refused(
    config: DictConfig, file: str, damage: Callable[[Path], None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, made = folder_of(config), steps_made(monkeypatch)
    for kept in folder.glob("checkpoint-round*"):
        shutil.rmtree(kept)
    damage(folder / file)
    with pytest.raises(UserError, match=said):
        start(config)
    assert not made
    assert (folder / "matrix.csv").exists()


def test_an_older_checkpoint_put_in_the_newest_one_s_place(
    config: DictConfig, reference: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(config)
    shutil.rmtree(folder / "checkpoint")
    shutil.copytree(folder / "checkpoint-round1", folder / "checkpoint")
    start(config)
    assert "checkpoint is of round 1: what came after it is made again" in capsys.readouterr().err
    assert everything(folder) == reference


def test_the_matrix_of_a_complete_run_is_put_right(
    config: DictConfig, reference: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    start(config)
    folder = folder_of(config)
    (folder / "matrix.csv").unlink()
    start(config)
    assert "is complete" in capsys.readouterr().out
    assert everything(folder) == reference


def test_a_run_that_another_process_finishes_meanwhile_is_shown(
    config: DictConfig,
    reference: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Between the first look and the lock."""
    lock = Journal.lock

    def after_the_other(self: Journal) -> object:
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "lock", lock)
            start(config)
        return lock(self)

    monkeypatch.setattr(Journal, "lock", after_the_other)
    start(config)
    assert everything(folder_of(config)) == reference
    assert "is complete" in capsys.readouterr().out


def test_a_file_system_without_locks_is_told_before_anything_is_written(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(UserError, match=r"without locks \(ENOLCK\).*: set runs_dir"):
        start(configure(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_a_lock_whose_file_is_gone_keeps_nobody_out_and_is_taken_anew(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run", ["a"])
    with journal.lock():
        (journal.folder / ".lock").unlink()
        with journal.lock(), pytest.raises(UserError, match="another process"), journal.lock():
            pass


def test_too_little_room_is_said_before_the_round(
    config: DictConfig, monkeypatch: pytest.MonkeyPatch, reference: dict[str, object]
) -> None:
    made = steps_made(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
        with pytest.raises(UserError, match=r"round 3 puts up to 2 MiB by in .*seed1, and 0 MiB are free: make room"):
            start(config)
    assert not made
    start(config)
    assert everything(folder_of(config)) == reference


def test_a_full_disk_is_one_sentence_and_loses_nothing(
    config: DictConfig, monkeypatch: pytest.MonkeyPatch, reference: dict[str, object]
) -> None:
    fsync = os.fsync
    calls = iter(range(1, 1000))

    def full(descriptor: int) -> None:
        if next(calls) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"could not be written \(No space left on device\): nothing finished is"):
            start(config)
    start(config)
    assert everything(folder_of(config)) == reference


def test_a_seal_is_of_what_json_holds() -> None:
    """Keys that are numbers become texts, and sort otherwise."""
    content = {"steps": {10: 1, 9: (1, 2)}}
    assert json.loads(sealed(content))["sha256"] == json.loads(sealed(json.loads(json.dumps(content))))["sha256"]


def test_memory_that_gives_out_while_answering_is_a_sentence_and_keeps_the_answers(
    configure: Configure, tmp_path: Path, reference: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(tmp_path, "evaluation.tokens_per_batch=40")
    answer, calls = speculative.answer, iter(range(1, 1000))

    def too_large(*arguments: Any) -> Any:
        if next(calls) == 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("trace_cl.evaluation.answer", too_large)
        with pytest.raises(
            UserError, match=r"out of memory while \d prompts .* set evaluation\.tokens_per_batch lower"
        ):
            start(config)
    assert len((folder_of(config) / "answers" / "rank0.jsonl").read_text().splitlines()) == 2
    start(configure(tmp_path, "evaluation.tokens_per_batch=20"))
    assert everything(folder_of(config)) == reference


def test_where_dropout_follows_the_cut_a_run_goes_on_with_its_own(configure: Configure, tmp_path: Path) -> None:
    """GPT-2 draws its masks by micro-batch: cut otherwise, they would be others."""
    tokenizer = load_tokenizer(str(CHECKPOINT))
    torch.manual_seed(0)
    sizes = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    GPT2LMHeadModel(sizes).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")

    def gpt2(runs: str, *overrides: str) -> DictConfig:
        return configure(tmp_path / runs, f"model.path={tmp_path / 'gpt2'}", "benchmark.order=[FOMC]", *overrides)

    start(gpt2("whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchLearner, "step", killed_at(TorchLearner.step, 4))
        with pytest.raises(Killed):
            start(gpt2("killed"))
    with pytest.raises(UserError, match=r"begun with training\.tokens_per_batch=8192, and the model's dropout, which"):
        start(gpt2("killed", "training.tokens_per_batch=100"))
    start(gpt2("killed"))
    assert everything(folder_of(gpt2("killed"))) == everything(folder_of(gpt2("whole")))
