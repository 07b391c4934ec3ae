"""The run directory: what a run leaves behind, and what lets it go on where it stopped.

A round is finished when its row stands in matrix.csv; everything else of the round is written before that. Every file
is written whole under another name and then renamed, so that a run killed at any moment leaves only whole files. (The
one exception, train.jsonl, grows line by line; what a killed run wrote of an unfinished round is dropped.)
"""

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from omegaconf import OmegaConf

from trace_cl.errors import UserError
from trace_cl.records.files import as_json, flatten, is_free, read_json, read_matrix, read_yaml, write
from trace_cl.records.predictions import Prediction, as_lines, prompts_as_lines

P = ParamSpec("P")


def writing(method: Callable[Concatenate["Journal", P], None]) -> Callable[Concatenate["Journal", P], None]:
    """Of several processes that go through a run in step, one writes."""

    @wraps(method)
    def write_or_not(journal: "Journal", /, *args: P.args, **kwargs: P.kwargs) -> None:
        if journal.writes:
            method(journal, *args, **kwargs)

    return write_or_not


@dataclass(frozen=True)
class Journal:
    """One run's directory; `tasks` are its tasks' names in order. Without `writes` it is only read."""

    folder: Path
    tasks: Sequence[str]
    writes: bool = True

    def check(self, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        """Raises UserError, showing the keys that differ, where a run of another configuration lies here.

        A key that came after that run was begun has its default there (`defaults`, by dotted names).
        """
        path = self.folder / "config.yaml"
        if not path.exists():
            return
        there, here = ({**defaults, **dict(flatten(side))} for side in (read_yaml(path), config))
        keys = sorted(key for key in there.keys() | here.keys() if not is_free(key))
        different = [
            f"{key} ({there.get(key)} there, {here.get(key)} here)" for key in keys if there.get(key) != here.get(key)
        ]
        if different:
            raise UserError(
                f"{self.folder} holds a run of another configuration: {'; '.join(different)}. "
                "Set runs_dir to another folder, or move that run away"
            )

    def check_data(self, checksums: Mapping[str, str], combined: Callable[[], str]) -> None:
        """Raises UserError where the run that lies here was begun on other examples than these.

        `checksums` are those of what is read, by name. Earlier versions wrote a single one, which `combined` gives.
        """
        path = self.folder / "data.sha256"
        if not path.exists():
            return
        there = path.read_text(encoding="utf-8")
        here = _as_lines(checksums) if "  " in there else combined() + "\n"
        if there != here:
            raise UserError(
                f"{self.folder} holds a run on other data (see {path.name}): set runs_dir to another folder"
            )

    @writing
    def begin(self, config: Mapping[str, Any], checksums: Mapping[str, str], environment: Mapping[str, Any]) -> None:
        """Write down what is run, on what data, where. Nothing is written of a run that could not begin."""
        path = self.folder / "config.yaml"
        if not path.exists():
            write(path, OmegaConf.to_yaml(OmegaConf.create(dict(config))))
        write(self.folder / "data.sha256", _as_lines(checksums))
        self._note_environment(environment)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process out of this run; the system lifts the lock when this one ends, however it ends.

        Raises UserError where another process is at it.
        """
        if not self.writes:
            yield
            return
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"{self.folder} is being run by another process: wait for it, or end it") from error
            yield

    def _note_environment(self, environment: Mapping[str, Any]) -> None:
        """Record what the run runs on; a resumed run's later surroundings are added where they differ."""
        path = self.folder / "environment.json"
        first = read_json(path) if path.exists() else dict(environment)
        later = first.setdefault("resumed_on", [])
        if environment not in ({key: value for key, value in first.items() if key != "resumed_on"}, *later):
            later.append(dict(environment))
        write(path, as_json(first))

    def matrix(self) -> list[list[float]]:
        """S, a row a finished round, row t with t scores. Raises UserError for a file that is no such matrix."""
        path = self.folder / "matrix.csv"
        if not path.exists():
            return []
        frame = read_matrix(path)
        if list(frame.columns) != list(self.tasks):
            raise UserError(f"{path}: its header is not round,{','.join(self.tasks)}; move the run away and start anew")
        rows = [[float(score) for score in row[: t + 1]] for t, row in enumerate(frame.to_numpy())]
        if any(score != score for row in rows for score in row):
            raise UserError(f"{path}: a score is missing below the diagonal; move the run away and start anew")
        return rows

    def complete(self) -> bool:
        """Whether every round is finished."""
        return len(self.matrix()) == len(self.tasks)

    @writing
    def finish_round(self, row: Sequence[float]) -> None:
        """Add round t's row of scores: from now on the round is finished."""
        rows = [*self.matrix(), list(row)]
        lines = [",".join(["round", *self.tasks])]
        for t, scores in enumerate(rows, start=1):
            lines.append(",".join([str(t), *map(repr, scores), *[""] * (len(self.tasks) - t)]))
        write(self.folder / "matrix.csv", "\n".join(lines) + "\n")

    @writing
    def write_predictions(self, round: int, task: str, predictions: Sequence[Prediction], variant: str) -> None:
        """One line an example: the score that counts, and both variants of it."""
        write(self.folder / "predictions" / f"round{round}" / f"{task}.jsonl", as_lines(predictions, variant))

    @writing
    def write_prompts(self, task: str, indices: Sequence[int], prompts: Sequence[str]) -> None:
        """What the task's scored examples ask, one line an example; it never changes, so it is written once."""
        path = self.folder / "prompts" / f"{task}.jsonl"
        if not path.exists():
            write(path, prompts_as_lines(indices, prompts))

    @writing
    def write_round(self, round: int, record: Mapping[str, Any]) -> None:
        """What happened in round t (0: the base model)."""
        write(self.folder / "rounds" / f"round{round}.json", as_json(record))

    def read_round(self, round: int) -> dict[str, Any] | None:
        """What `write_round` wrote, or None."""
        path = self.folder / "rounds" / f"round{round}.json"
        return read_json(path) if path.exists() else None

    @writing
    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """The run in one file."""
        write(self.folder / "summary.json", as_json(summary))

    @writing
    def begin_steps(self, round: int) -> None:
        """Drop from train.jsonl what an interrupted run wrote of this round."""
        path = self.folder / "train.jsonl"
        if path.exists():
            whole = [line for line in path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in whole if json.loads(line)["round"] < round]
            write(path, "".join(line + "\n" for line in kept))

    @writing
    def add_step(self, step: Mapping[str, Any]) -> None:
        """One optimizer step's line in train.jsonl."""
        with (self.folder / "train.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(step, allow_nan=False) + "\n")

    def checkpoint(self) -> Path | None:
        """The newest finished training round's folder, if there is one."""
        folder, old = self.folder / "checkpoint", self.folder / "checkpoint.old"
        if old.exists() and not folder.exists():  # killed between the two renames below
            old.rename(folder)
        return folder if folder.exists() else None

    def trained_rounds(self) -> int:
        """The round whose weights the checkpoint holds; 0 where there is none."""
        folder = self.checkpoint()
        return int(read_json(folder / "round.json")["round"]) if folder else 0

    @writing
    def save_checkpoint(self, round: int, savers: Sequence[Callable[[Path], object]], keep: bool) -> None:
        """Put what the savers write in the last checkpoint's place; with `keep` also under the round's own name."""
        draft, folder, old = (self.folder / name for name in ("checkpoint.tmp", "checkpoint", "checkpoint.old"))
        for leftover in (draft, old):
            shutil.rmtree(leftover, ignore_errors=True)
        draft.mkdir()
        for save in savers:
            save(draft)
        write(draft / "round.json", as_json({"round": round}))
        if folder.exists():
            folder.rename(old)
        draft.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        if keep:
            shutil.copytree(folder, self.folder / f"checkpoint-round{round}", dirs_exist_ok=True)


def _as_lines(checksums: Mapping[str, str]) -> str:
    """As sha256sum writes them."""
    return "".join(f"{checksum}  {name}\n" for name, checksum in checksums.items())
