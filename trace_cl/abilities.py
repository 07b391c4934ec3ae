"""What models can do besides their tasks: `python -m trace_cl.abilities RUN|MODEL …`, by the lm-evaluation-harness.

What is measured of a run lies in `RUN/abilities/round<t>/`, a file an ability, where tables and the page read it. It is
not measured again: the same command goes on where it was interrupted.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trace_cl.analysis.abilities import MEANING, of_run, side_by_side, table
from trace_cl.analysis.save import save
from trace_cl.analysis.stored import StoredRun, default_benchmark, finished, measured_in
from trace_cl.analysis.table12 import methods
from trace_cl.analysis.tables import MODELS
from trace_cl.analysis.text import markdown
from trace_cl.doors import leave
from trace_cl.errors import UserError
from trace_cl.harness import PAPER, Ability, Harness
from trace_cl.records.files import as_json, read_json
from trace_cl.records.seal import SEAL, unsealed
from trace_cl.restored import check_alone, checkpoint_after, config_of, model_after
from trace_cl.training.layout import device_and_dtype
from trace_cl.training.model import load_model, load_tokenizer, locate

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@dataclass(frozen=True)
class Subject:
    """A model to measure: what it is called, where the results go, what tells its weights from others', how to load it;
    and `others`, where results of the very same model may lie already."""

    name: str
    folder: Path
    weights: dict[str, Any]
    load: Callable[[], Loaded]
    others: Sequence[Path] = ()


def of_round(run: StoredRun, round: int, device: str) -> Subject:
    """A run's model after a round. Raises UserError where its weights are gone, or are not all that answers."""
    if round:
        check_alone(run)
    checkpoint = checkpoint_after(run, round)
    model = config_of(run).model
    weights = {"dtype": model.dtype, "source": model.source, "path": model.path}
    if checkpoint is not None:
        weights["checkpoint"] = unsealed(checkpoint / SEAL)["files"]
    where = Path("abilities", f"round{round}")
    return Subject(
        f"{run.name}, {f'round {round}' if round else 'base model'}",
        run.folder / where,
        weights,
        lambda: model_after(run, round, device),
        () if round else sorted(run.folder.parent.parent.glob(f"*/seed*/{where}")),
    )


def of_model(name: str, out: Path, device: str) -> Subject:
    """A model that is no run's: a folder in Hugging Face layout, or a name on the hub."""
    path = name if Path(name).is_dir() else None
    dtype = device_and_dtype(device, None)[1]

    def load() -> Loaded:
        folder = locate(name, path)
        model: Any = load_model(folder, dtype)
        return model.to(device_and_dtype(device, None)[0]), load_tokenizer(folder)

    weights = {"dtype": str(dtype), "source": name}
    return Subject(name, out / Path(name).name, weights, load)


def settings(ability: Ability, subject: Subject) -> dict[str, Any]:
    """What a measured score depends on, as it is written beside it."""
    asked = {"task": ability.task, "figure": ability.figure, "shots": ability.shots, "limit": ability.limit}
    return dict(json.loads(json.dumps({**asked, "weights": subject.weights})))


def is_there(subject: Subject, ability: Ability) -> bool:
    """Whether it has been measured. Raises UserError where what lies there is of something else."""
    path, here = subject.folder / f"{ability.name}.json", settings(ability, subject)
    if not path.exists():
        return take_over(subject, ability)
    there = read_json(path).get("settings") or {}
    if different := [key for key in here if there.get(key) != here[key]]:
        raise UserError(f"{path} was measured otherwise ({', '.join(different)}): move it away, or ask for the same")
    return True


def take_over(subject: Subject, ability: Ability) -> bool:
    """Copy what was measured of the very same model elsewhere; whether there was such."""
    for folder in subject.others:
        path = folder / f"{ability.name}.json"
        if path.exists() and read_json(path).get("settings") == settings(ability, subject):
            for each in (path.with_suffix(".jsonl"), path):
                save(subject.folder / each.name, each.read_bytes())
            return True
    return False


def measure(subject: Subject, abilities: Sequence[Ability], harness: Harness, batch: int | str) -> None:
    """Measure what is not there yet, and write each score down as soon as it is known."""
    missing = [ability for ability in abilities if not is_there(subject, ability)]
    if not missing:
        return
    model, tokenizer = subject.load()
    for ability in missing:
        print(f"{subject.name}: {ability.name}", file=sys.stderr)
        found = harness.measure(model, tokenizer, ability, batch)
        lines = "".join(json.dumps(sample, ensure_ascii=False, default=str) + "\n" for sample in found.samples)
        save(subject.folder / f"{ability.name}.jsonl", lines)
        about = {"score": found.score, "settings": settings(ability, subject), **found.results}
        save(subject.folder / f"{ability.name}.json", as_json(about))


def rounds_meant(run: StoredRun, asked: str) -> list[int]:
    """The rounds, and the base model's (0), against which they are held. Raises UserError for one that is not
    finished."""
    last = len(run.rows)
    if asked in ("last", "all"):
        return [0, *(range(1, last + 1) if asked == "all" else [last])]
    if not asked.isdigit() or int(asked) > last:
        raise UserError(f"--round {asked} is not last, all, or a finished round from 0 to {last}")
    return sorted({0, int(asked)})


def abilities_meant(options: argparse.Namespace) -> list[Ability]:
    """What to measure: the paper's nine, or the tasks that are named. One that would execute what a model has written
    is left out, with a word, unless that is asked for."""
    named = [task.partition(":")[::2] for task in options.task]
    abilities = [Ability(task, task, figure, runs_code=options.run_code) for task, figure in named] or list(PAPER)
    asked = {key: value for key in ("shots", "limit") if (value := getattr(options, key)) is not None}
    abilities = [replace(ability, **asked) for ability in abilities]
    kept = [ability for ability in abilities if options.run_code or not ability.runs_code]
    for ability in abilities:
        if ability not in kept:
            print(
                f"{ability.name} is left out: it executes code that the model has written, with your rights, on this "
                "machine; where that may be, add --run-code",
                file=sys.stderr,
            )
    return kept


def is_run(name: str) -> bool:
    """Whether it is a run's folder, and not a model's."""
    return (Path(name) / "matrix.csv").exists()


def behind_table12(options: argparse.Namespace) -> list[StoredRun]:
    """The finished runs that the table is made of; without those that have scored exercises of their benchmark's."""
    ours = options.runs / (options.benchmark or default_benchmark(options.of))
    models = [options.of] if options.of else MODELS
    runs = [run for model in models for method in methods(model) for run in finished(ours, model, method)]
    return [run for run in runs if not run.record(len(run.rows)).get("abilities")]


def shown(runs: Sequence[StoredRun], models: Sequence[Subject]) -> Iterator[str]:
    """What there is to read: of each run its rounds, and the models side by side."""
    for run in runs:
        yield f"**{run.name}**\n\n{markdown(table(of_run(run)))}\n\n{MEANING}"
    if models:
        yield markdown(side_by_side({model.name: measured_in(model.folder) for model in models}))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m trace_cl.abilities", description="What models can do besides their tasks."
    )
    parser.add_argument(
        "model",
        metavar="RUN|MODEL",
        nargs="*",
        help="a run's folder; a model's, or its name on the hub (default: the finished runs behind Table 12)",
    )
    parser.add_argument("--round", default="last", help="of a run: last (default), all, or a number")
    parser.add_argument(
        "--task",
        action="append",
        default=[],
        help="a task of the harness, TASK or TASK:FIGURE (default: the paper's nine)",
    )
    parser.add_argument("--include", type=Path, help="a folder of tasks of your own, in the harness's YAML")
    parser.add_argument("--shots", type=int, help="examples before each question (default: the task's own)")
    parser.add_argument("--limit", type=int, help="examples of each task at most, the first ones")
    parser.add_argument("--batch", default="8", help="requests at once: a number, or auto")
    parser.add_argument("--run-code", action="store_true", help="execute code that the model writes (HumanEval)")
    parser.add_argument(
        "--model", dest="of", metavar="MODEL", help="without RUN|MODEL: the model's runs (default: the paper's)"
    )
    parser.add_argument("--benchmark", help="their benchmark (default: embedded for tiny, else trace)")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/abilities"), help="where the scores of a model go")
    options = parser.parse_args(arguments)
    try:
        named = [StoredRun.at(Path(name)) for name in options.model if is_run(name)]
        runs = named if options.model else behind_table12(options)
        rounds = [of_round(run, t, options.device) for run in runs for t in rounds_meant(run, options.round)]
        models = [of_model(name, options.out, options.device) for name in options.model if not is_run(name)]
        if not rounds and not models:
            print("no finished run is there to be measured", file=sys.stderr)
            return 0
        abilities = abilities_meant(options)
        harness = Harness(options.include, [ability.task for ability in abilities])
        abilities = [harness.checked(ability) for ability in abilities]
        for subject in (*rounds, *models):
            measure(subject, abilities, harness, int(options.batch) if options.batch.isdigit() else "auto")
        print("\n\n".join(shown(runs, models)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    leave(main)
