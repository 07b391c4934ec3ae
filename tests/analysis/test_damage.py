"""Whatever has become of a run's files, whoever reads them gets what a run could have written, or one sentence."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from trace_cl.analysis import bootstrap, compare, page, summary
from trace_cl.analysis.stored import StoredRun
from trace_cl.analysis.text import headline
from trace_cl.errors import UserError

FILES = (
    *("matrix.csv", "summary.json", "predictions/round3/FOMC.jsonl", "predictions/round0/FOMC.jsonl"),
    *("prompts/FOMC.jsonl", "data.sha256", "config.yaml"),
)
"""What is read of a finished run."""

STRANGE: tuple[Any, ...] = (
    *(None, True, [], {}, [[]], "", "x", "\ud800", "<script>", -5, 900, 0.5, 2**70, 10**400),
    *(float("nan"), float("inf"), {"a": [{}]}, "${seed}", "../../x"),
)


def read(folder: Path, name: str, sound: StoredRun) -> None:
    """All that the commands read of this file, beside a run that is whole."""
    run = StoredRun.at(folder)
    if name in ("config.yaml", "data.sha256"):
        assert all(isinstance(key, str) for key in run.contradictions)
        compare.config_differences([sound, run])
        return
    assert all(0 <= score <= 100 for task in run.tasks for score in run.scores(task).values())
    assert headline(run.figures, run.printed)
    json.dumps(page.answers(run, 100, page.Texts()), allow_nan=False, ensure_ascii=False).encode()
    if "round" in name or (run.tasks == sound.tasks and len(run.rows) == len(sound.rows)):
        bootstrap.resampled([sound, run], len(run.rows), draws=10)
        compare.matrix_difference(run, sound, len(run.rows))


def bytes_changed(content: bytes, draw: Random) -> bytes:
    """A few bytes flipped, or a piece cut out, cut off, doubled, or put elsewhere."""
    first, last = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    match draw.randrange(5):
        case 0:
            changed = bytearray(content)
            for _ in range(draw.randint(1, 8)):
                changed[draw.randrange(len(changed))] ^= draw.randint(1, 255)
            return bytes(changed)
        case 1:
            return content[:first]
        case 2:
            return content[:first] + content[last:]
        case 3:
            return content[:last] + content[first:]
        case _:
            return content[:first] + draw.randbytes(draw.randint(1, 9)) + content[first:]


def value_changed(content: bytes, name: str, draw: Random) -> bytes:
    """One value of the file, at any depth, made another or taken away; the file stays one of its kind."""
    text = content.decode()
    if name.endswith(".csv"):
        rows = list(csv.reader(io.StringIO(text)))
        row = draw.choice(rows)
        row[draw.randrange(len(row))] = str(draw.choice(STRANGE))
        rows = draw.choice((rows, rows, rows[::-1], rows * 2, rows[:1]))
        return "\n".join(map(",".join, rows)).encode("utf-8", "replace")
    if name.endswith((".yaml", ".sha256")):
        lines = text.splitlines()
        at = draw.randrange(len(lines))
        before = lines[at].partition(":")[0]
        lines[at] = draw.choice((f"{before}: {json.dumps(draw.choice(STRANGE))}", before, lines[at - 1], ""))
        return "\n".join(lines).encode()
    lines = text.splitlines() if name.endswith("l") else [text]
    at = draw.randrange(len(lines))
    value: Any = json.loads(lines[at])
    inner: Any = value
    while True:
        key: Any = draw.choice(list(inner) if isinstance(inner, dict) else list(range(len(inner))))
        if isinstance(inner[key], dict | list) and inner[key] and draw.random() < 0.7:
            inner = inner[key]
            continue
        if draw.random() < 0.2:
            del inner[key]
        else:
            inner[key] = draw.choice(STRANGE)
        break
    lines[at] = json.dumps(draw.choice((value, value, value, [value])))
    return "\n".join(lines).encode()


def mutate(folder: Path, sound: StoredRun, times: int, seed: int) -> int:
    """Damage one file of the run after the other; gives how often that was noticed. Raises what is no UserError."""
    draw, said = Random(seed), []
    for name in draw.choices(FILES, weights=[6, 6, 6, 6, 6, 1, 1], k=times):  # YAML takes ten times as long as JSON
        path = folder / name
        content = path.read_bytes()
        changed = bytes_changed(content, draw) if draw.random() < 0.5 else value_changed(content, name, draw)
        path.write_bytes(changed)
        try:
            read(folder, name, sound)
        except UserError as error:
            said.append(str(error))
        except Exception as error:
            error.add_note(f"{name} had become {changed!r}")
            raise
        finally:
            path.write_bytes(content)
    assert not [sentence for sentence in said if "\n" in sentence]
    return len(said)


@pytest.fixture
def pair(run: Callable[..., Path], tmp_path: Path) -> tuple[Path, StoredRun]:
    """A run's directory to be damaged, and the same run whole."""
    folder = run()
    there = tmp_path / "damaged" / Path(*folder.parts[-4:])
    shutil.copytree(folder, there)
    read(there, "matrix.csv", StoredRun.at(folder))
    return there, StoredRun.at(folder)


def test_damaged_files_are_sentences(pair: tuple[Path, StoredRun]) -> None:
    assert mutate(*pair, times=1000, seed=1) > 250


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_damaged_files_are_sentences(pair: tuple[Path, StoredRun], seed: int) -> None:
    assert mutate(*pair, times=5000, seed=seed) > 1000


def test_every_command_says_what_is_damaged(
    run: Callable[..., Path], small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the commands themselves, and by the very run that is complete."""
    folder, other = run(), run("strategy=joint")
    runs = ["--runs", str(tmp_path / "runs")]
    commands: dict[str, Callable[[], object]] = {
        "results": lambda: summary.main([*runs, "--benchmark", "trace"]),
        "page": lambda: page.main(runs),
        "compare": lambda: compare.main([str(other), str(folder)]),
        "run": run,
    }
    said = set()
    for name in FILES:
        path = folder / name
        content = path.read_bytes()
        for damage in (b"", b"[[\xff", content[: len(content) // 2]):
            path.write_bytes(damage)
            for command, start_it in commands.items():
                capsys.readouterr()
                try:
                    code = start_it()
                except UserError as error:
                    code, sentence = 2, f"error: {error}\n"
                else:
                    sentence = capsys.readouterr().err
                if code == 2:
                    assert sentence.startswith("error: "), (name, damage, command)
                    assert sentence.count("\n") == 1, (name, damage, command, sentence)
                    said.add((command, name))
        path.write_bytes(content)
    assert said >= {(command, "config.yaml") for command in commands}
    # The run itself puts its matrix right.
    assert said >= {(command, "matrix.csv") for command in commands if command != "run"}
    assert said >= {(command, "summary.json") for command in commands if command != "compare"}
    assert said >= {("page", "prompts/FOMC.jsonl"), ("page", "predictions/round3/FOMC.jsonl")}
    assert ("compare", "predictions/round3/FOMC.jsonl") in said


def test_a_run_that_is_none_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "matrix.csv").mkdir(parents=True)
    for folder in ("file", "file/x", "nowhere", "x" * 300, "folder"):
        assert compare.main([str(tmp_path / folder), str(tmp_path)]) == 2
        printed = capsys.readouterr().err
        assert printed.startswith("error: ")
        assert printed.count("\n") == 1
