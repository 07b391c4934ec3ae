"""The run directory: what a run leaves behind, and what lets it go on where it stopped.

`manifest.json` holds the records of all finished rounds, scores included, and its own checksum: a round is finished
when it stands there, and all else of the round is written before. matrix.csv, `rounds/` and the report say the same to
others. A checkpoint names the checksum of each of its files. So a run that was killed at any moment, or whose files
were torn or altered, goes on from what is whole, or is refused with the name of what is not.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from omegaconf import OmegaConf

from trace_cl.errors import UserError
from trace_cl.records.files import (
    as_json,
    flatten,
    guard,
    is_free,
    read_json,
    read_matrix,
    read_yaml,
    sync,
    sync_all,
    whole,
    write,
)
from trace_cl.records.lock import locked
from trace_cl.records.predictions import Prediction, as_lines, prompts_as_lines
from trace_cl.records.seal import SEAL, checksums, opened, sealed, unsealed

P = ParamSpec("P")

Record = dict[str, Any]
"""What happened in a round, its scores by variant and task among it."""

CHECKPOINT, HALFWAY, MANIFEST = "checkpoint", "halfway", "manifest.json"


def writing(method: Callable[Concatenate["Journal", P], None]) -> Callable[Concatenate["Journal", P], None]:
    """Of several processes that go through a run in step, one writes."""

    @wraps(method)
    def write_or_not(journal: "Journal", /, *args: P.args, **kwargs: P.kwargs) -> None:
        if journal.writes:
            method(journal, *args, **kwargs)

    return write_or_not


@dataclass(frozen=True)
class Standing:
    """Where a run stands. `base` is the record of round 0, if the base model was asked; `rounds` are those of the
    finished ones.

    `checkpoint` holds the weights after the newest round that learned (None: the base model's), and `trained` is that
    round's record where the round is not scored yet. `halfway` holds what the round after it has come to, if anything.
    `notes` are what a user should know of it.
    """

    base: Record | None = None
    rounds: tuple[Record, ...] = ()
    checkpoint: Path | None = None
    trained: Record | None = None
    halfway: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def finished(self) -> int:
        """How many rounds are."""
        return len(self.rounds)

    @property
    def learned(self) -> int:
        """The newest finished round in which something was learned; 0: none."""
        return max((record["round"] for record in self.rounds if record["phases"]), default=0)


@dataclass(frozen=True)
class Journal:
    """One run's directory; `tasks` are its tasks' names in order, `variant` is whose scores make the matrix.

    Without `writes` it is only read.
    """

    folder: Path
    tasks: Sequence[str]
    variant: str = "standard"
    writes: bool = True

    def check(self, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        """Raises UserError, showing the keys that differ, where a run of another configuration lies here.

        A key that came after that run was begun has its default there (`defaults`, by dotted names).
        """
        path = self.folder / "config.yaml"
        if not path.exists():
            return
        written = read_yaml(path)
        there, here = ({**defaults, **dict(flatten(side))} for side in (written, config))
        keys = sorted(key for key in there.keys() | here.keys() if not is_free(key))
        different = [
            f"{key} ({there.get(key)} there, {here.get(key)} here)" for key in keys if there.get(key) != here.get(key)
        ]
        if different:
            raise UserError(
                f"{self.folder} holds a run of another configuration: {'; '.join(different)}. "
                "Set runs_dir to another folder, or move that run away"
            )

    def settings(self) -> dict[str, Any]:
        """Under which settings the run that lies here was begun, by dotted keys; nothing where there is none."""
        path = self.folder / "config.yaml"
        return dict(flatten(read_yaml(path))) if path.exists() else {}

    def check_data(self, checksums: Mapping[str, str], combined: Callable[[], str]) -> None:
        """Raises UserError where the run that lies here was begun on other examples than these.

        `checksums` are those of what is read, by name. Earlier versions wrote a single one, which `combined` gives.
        """
        path = self.folder / "data.sha256"
        if not path.exists():
            return
        there = whole(path, lambda: path.read_text(encoding="utf-8"))
        here = _as_lines(checksums) if "  " in there else combined() + "\n"
        if there != here:
            raise UserError(
                f"{self.folder} holds a run on other data (see {path.name}): set runs_dir to another folder"
            )

    def check_cut(self, tokens_per_batch: int, processes: int) -> None:
        """Raises UserError where the run that lies here was begun with its batches cut otherwise: for a model whose
        dropout follows the cut."""
        files = [self.folder / name for name in ("config.yaml", "environment.json")]
        if not all(path.exists() for path in files):
            return
        config = read_yaml(files[0])
        surroundings = read_json(files[1])
        for key, there, here in (
            ("training.tokens_per_batch", config["training"]["tokens_per_batch"], tokens_per_batch),
            ("engine.processes", surroundings.get("processes", processes), processes),
        ):
            if there != here:
                raise UserError(
                    f"{self.folder} was begun with {key}={there}, and the model's dropout, which follows how a batch "
                    f"is cut, would be another with {here}: go on with {there}"
                )

    @writing
    def begin(self, config: Mapping[str, Any], checksums: Mapping[str, str], environment: Mapping[str, Any]) -> None:
        """Write down what is run, on what data, where. Nothing is written of a run that could not begin."""
        path = self.folder / "config.yaml"
        if not path.exists():
            write(path, OmegaConf.to_yaml(OmegaConf.create(dict(config))))
        write(self.folder / "data.sha256", _as_lines(checksums))
        self._note_environment(environment)
        if not (self.folder / MANIFEST).exists():
            self._write_manifest(Standing())

    def lock(self) -> AbstractContextManager[None]:
        """Keep every other process out of this run. Raises UserError as `locked` does."""
        return locked(self.folder)

    def _note_environment(self, environment: Mapping[str, Any]) -> None:
        """Record what the run runs on; a resumed run's later surroundings are added where they differ."""
        path = self.folder / "environment.json"
        first = read_json(path) if path.exists() else dict(environment)
        later = first.setdefault("resumed_on", [])
        if environment not in ({key: value for key, value in first.items() if key != "resumed_on"}, *later):
            later.append(dict(environment))
        write(path, as_json(first))

    def rows(self, standing: Standing) -> list[list[float]]:
        """S, a row a finished round, row t with t scores."""
        return [scores[:t] for t, scores in enumerate(self.scores(standing), start=1)]

    def scores(self, standing: Standing) -> list[list[float]]:
        """The same with the scores of the tasks to come, where these are asked for: a row has t scores or all."""
        found = [record["scores"][self.variant] for record in standing.rounds]
        return [[float(scores[task]) for task in self.tasks[: len(scores)]] for scores in found]

    def complete(self) -> bool:
        """Whether every round is finished, and the matrix is as it was written. Raises UserError for a file that is no
        matrix."""
        path = self.folder / "matrix.csv"
        if not path.exists():
            return False
        if not (self.folder / MANIFEST).exists():  # a version before this one kept none
            frame = read_matrix(path)
            return list(frame.columns) == list(self.tasks) and len(frame) == len(self.tasks)
        standing = self._manifest()
        written = self._as_matrix(self.rows(standing)).encode()
        return standing.finished == len(self.tasks) and whole(path, path.read_bytes) == written

    def _manifest(self) -> Standing:
        """The finished rounds. Raises UserError where their list is not what the run wrote, or is lost."""
        path = self.folder / MANIFEST
        if path.exists():
            content = unsealed(path)
            return Standing(content["base"], tuple(content["rounds"]))
        for name in ("matrix.csv", CHECKPOINT):
            if (self.folder / name).exists():
                raise UserError(
                    f"{path} is missing beside {name}, so that nobody can tell what the run stands on: "
                    f"move {self.folder} away and start anew"
                )
        return Standing()

    def _write_manifest(self, standing: Standing) -> None:
        write(self.folder / MANIFEST, sealed({"base": standing.base, "rounds": list(standing.rounds)}))

    def standing(self) -> Standing:
        """Where the run stands, and with `writes` its directory put in order accordingly.

        Of the checkpoints the newest whole one counts; what it is older than is learned and scored again. Raises
        UserError where none is whole.
        """
        standing, notes = self._manifest(), []
        if standing.finished == len(self.tasks):
            notes = self._put_in_order(standing) if self.writes else []
            return replace(standing, notes=tuple(notes))
        for folder in self._states(CHECKPOINT, *(f"{CHECKPOINT}-round{t}" for t in range(len(self.tasks), 0, -1))):
            try:
                about = opened(folder)
            except UserError as error:
                notes.append(_without_advice(error))
                continue
            if (number := about["round"]) > standing.finished + 1:
                notes.append(f"{folder} is of round {number}, and {standing.finished} rounds are finished")
                continue
            if number < standing.learned:
                notes.append(f"{folder} is of round {number}: what came after it is made again")
                standing = replace(standing, rounds=standing.rounds[:number])
            trained = about["record"] if number == standing.finished + 1 else None
            standing = replace(standing, checkpoint=folder, trained=trained)
            break
        if standing.checkpoint is None and standing.learned:
            raise UserError(
                f"{notes[0] if notes else f'{self.folder / CHECKPOINT} is missing'}; no other state of the run "
                f"is whole, and {standing.finished} rounds are finished: move {self.folder} away and start anew"
            )
        for halfway in self._states(HALFWAY) if standing.trained is None else []:
            try:
                if opened(halfway)["round"] == standing.finished + 1:
                    standing = replace(standing, halfway=halfway)
            except UserError as error:
                notes.append(f"{_without_advice(error)}: round {standing.finished + 1} is learned from its beginning")
        if self.writes:
            notes += self._put_in_order(standing)
        return replace(standing, notes=tuple(notes))

    def _states(self, *names: str) -> list[Path]:
        """The folders by these names that are there. One that was about to be replaced when the run was killed stands
        where it stood."""
        for folder in (self.folder / name for name in names):
            old = folder.with_name(f"{folder.name}.old")
            if self.writes and old.exists() and not folder.exists():
                with guard(self.folder):
                    old.rename(folder)
        return [self.folder / name for name in names if (self.folder / name).exists()]

    def _put_in_order(self, standing: Standing) -> list[str]:
        """Have the directory say what the manifest says; tells what had been altered."""
        notes = []
        for name in (CHECKPOINT, HALFWAY):  # of a run that was killed while it put one in the other's place
            for leftover in (self.folder / f"{name}.tmp", self.folder / f"{name}.old"):
                shutil.rmtree(leftover, ignore_errors=True)
        if standing.rounds != self._manifest().rounds:
            self._write_manifest(standing)
        rows, path = self.scores(standing), self.folder / "matrix.csv"
        expected = self._as_matrix(rows)
        # A run that was killed between the two last files of a round has a row more.
        there = path.read_bytes() if path.exists() else b""
        if rows and not there.startswith(expected.encode()):
            notes.append(f"{path} was not what the run wrote: it is written anew, from {MANIFEST}")
        if rows and there != expected.encode():
            write(path, expected)
        for number, record in enumerate((standing.base, *standing.rounds)):
            path = self.folder / "rounds" / f"round{number}.json"
            if record is not None and (not path.exists() or path.read_bytes() != as_json(record).encode()):
                notes.append(f"{path} was not what the run wrote: it is written anew, from {MANIFEST}")
                write(path, as_json(record))
        return notes

    def _as_matrix(self, rows: Sequence[Sequence[float]]) -> str:
        lines = [",".join(["round", *self.tasks])]
        for t, scores in enumerate(rows, start=1):
            lines.append(",".join([str(t), *map(repr, scores), *[""] * (len(self.tasks) - len(scores))]))
        return "\n".join(lines) + "\n"

    @writing
    def finish_round(self, standing: Standing) -> None:
        """The newest of these rounds is finished: its row in the matrix, and then, which makes it so, the manifest."""
        if standing.rounds:
            write(self.folder / "matrix.csv", self._as_matrix(self.scores(standing)))
        self._write_manifest(standing)
        with guard(self.folder):
            shutil.rmtree(self.folder / "answers", ignore_errors=True)

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

    @writing
    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """The run in one file."""
        write(self.folder / "summary.json", as_json(summary))

    @writing
    def begin_steps(self, round: int, step: int = 0) -> None:
        """Drop from train.jsonl what comes after this step of this round: it is about to be made again."""
        path = self.folder / "train.jsonl"
        if not path.exists():
            return
        kept = []
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    at = (json.loads(line)["round"], json.loads(line)["step"])
                except (ValueError, KeyError, TypeError):
                    break  # torn
                if at > (round, step):
                    break
                kept.append(line)
        write(path, "".join(kept))

    def steps(self, round: int) -> list[dict[str, Any]]:
        """The lines of train.jsonl that are of this round."""
        path = self.folder / "train.jsonl"
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        return [line for line in lines if line["round"] == round]

    @writing
    def add_step(self, step: Mapping[str, Any]) -> None:
        """One optimizer step's line in train.jsonl."""
        path = self.folder / "train.jsonl"
        with guard(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(step, allow_nan=False) + "\n")

    @contextmanager
    def replacing(self, name: str, about: Callable[[], Mapping[str, Any]]) -> Iterator[Path | None]:
        """A folder to fill, which then takes the place of the one by that name, sealed with what it is `about`.

        None for those who do not write.
        """
        if not self.writes:
            yield None
            return
        draft, folder, old = (self.folder / f"{name}{ending}" for ending in (".tmp", "", ".old"))
        with guard(folder):
            for leftover in (draft, old):
                shutil.rmtree(leftover, ignore_errors=True)
            draft.mkdir()
            yield draft
            sync_all(draft)
            write(draft / SEAL, sealed({**about(), "files": checksums(draft)}))
            if folder.exists():
                folder.rename(old)
            draft.rename(folder)
            sync(self.folder)
            shutil.rmtree(old, ignore_errors=True)

    @writing
    def checkpoint_made(self, round: int, keep: bool) -> None:
        """A round's checkpoint stands: what its middle had come to is no longer needed. With `keep` a copy stays."""
        with guard(self.folder):
            shutil.rmtree(self.folder / HALFWAY, ignore_errors=True)
            if keep:
                draft, copy = (self.folder / f"{CHECKPOINT}-round{round}{ending}" for ending in (".tmp", ""))
                for leftover in (draft, copy):
                    shutil.rmtree(leftover, ignore_errors=True)
                shutil.copytree(self.folder / CHECKPOINT, draft)
                sync_all(draft)
                draft.rename(copy)
                sync(self.folder)


def _without_advice(error: UserError) -> str:
    return str(error).removesuffix(": move the run away")


def _as_lines(checksums: Mapping[str, str]) -> str:
    """As sha256sum writes them."""
    return "".join(f"{checksum}  {name}\n" for name, checksum in checksums.items())
