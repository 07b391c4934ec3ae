"""How far runs have moved a model's matrices: `python -m trace_cl.variation RUN [RUN …]`, the HFT paper's Figure 4.

Of each run the final checkpoint is compared with the model as it was before the first round, a matrix at a time, so
that two of these are all that is held in memory. What is made of the numbers is `trace_cl/analysis/variation.py`.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open
from torch import Tensor

from trace_cl.analysis.plots import image
from trace_cl.analysis.save import save
from trace_cl.analysis.stored import StoredRun, by_method, method_order
from trace_cl.analysis.text import markdown
from trace_cl.analysis.variation import BLOCKS, blocks, findings, picture
from trace_cl.doors import leave
from trace_cl.errors import UserError
from trace_cl.names import look_up
from trace_cl.records.journal import CHECKPOINT
from trace_cl.records.seal import opened
from trace_cl.strategies.base import Unsuitable
from trace_cl.strategies.layers import Module, layers
from trace_cl.training.folder import StoredTensor, build_on_meta, read_config, stored_tensors
from trace_cl.training.model import locate


def measure(run: StoredRun, base: Path) -> pd.DataFrame:
    """A line a matrix of the model's layers (`analysis.variation.blocks` says of which columns).

    Raises UserError for a run whose final weights are not there, or that has none of its own.
    """
    chosen = _chosen(run)
    checkpoint = run.folder / CHECKPOINT
    before, after = stored_tensors(base), stored_tensors(checkpoint)
    try:
        stack = layers(build_on_meta(read_config(base)))
    except Unsuitable as error:
        raise UserError(f"{base}: {str(error).removesuffix(': set hft=false')}") from error
    lines = []
    for number, layer in enumerate(stack, start=1):
        feed_forward = [module for mlp in layer.mlps for module in mlp]
        for block, modules in zip(BLOCKS, (layer.attention, feed_forward), strict=True):
            for module in modules:
                lines.append(
                    {
                        "layer": number,
                        "block": block,
                        "matrix": module.name,
                        "size": module.size,
                        "rounds": sum(module.name not in frozen for frozen in chosen),
                        "variation": variation(_read(before, module, base), _read(after, module, checkpoint)),
                    }
                )
    return pd.DataFrame(lines).assign(
        run=run.name, setting=_setting(run), hft=bool(run.config.get("hft")), method=run.method, seed=run.seed
    )


def variation(before: Tensor, after: Tensor) -> float:
    """The mean of |after − before|, of two tensors of one shape; the first is taken as the run took it, in the second's
    type: what was only rounded has not varied."""
    return float((after.float() - before.to(after.dtype).float()).abs().sum(dtype=torch.float64) / after.numel())


def _read(tensors: Mapping[str, StoredTensor], module: Module, folder: Path) -> Tensor:
    """The weight of a module. Raises UserError where there is none, or one of another size."""
    name = f"{module.name}.weight" if f"{module.name}.weight" in tensors else module.name
    if name not in tensors or math.prod(tensors[name].shape) != module.size:
        raise UserError(
            f"{folder} has no {module.name} of {module.size:,} numbers: name the runs' own model as --base (a mixture "
            "of experts, whose files name its tensors otherwise, cannot be compared)"
        )
    with safe_open(tensors[name].file, framework="pt") as file:
        found: Tensor = file.get_tensor(name)
        return found


def _chosen(run: StoredRun) -> list[set[str]]:
    """The modules that were frozen in each of the rounds that have made the final weights."""
    if not run.complete:
        raise UserError(
            f"{run.folder} is unfinished ({len(run.matrix)} of {len(run.tasks)} rounds): start its command again first"
        )
    strategy = look_up("strategy._target_", str(run.config.get("strategy._target_")))
    if strategy.changes_architecture:
        raise UserError(
            f"{run.folder}: {run.strategy} trains modules of its own and leaves the model's matrices as they are: name "
            "runs that train the model itself"
        )
    records = {round: run.record(round) for round in range(1, len(run.tasks) + 1)}
    for round, record in records.items():
        if not record:
            raise UserError(f"{run.folder / 'rounds' / f'round{round}.json'} is missing: it says what was frozen")
    frozen = [set(record["frozen_modules"]) for record in records.values() if record["phases"]]
    if not frozen:
        raise UserError(f"{run.folder}: {run.strategy} trains nothing: name runs that train the model itself")
    if not (run.folder / CHECKPOINT).is_dir():
        raise UserError(f"{run.folder / CHECKPOINT} is missing: without the final weights there is nothing to compare")
    opened(run.folder / CHECKPOINT)
    return frozen[-1:] if strategy.begins_anew else frozen


def _setting(run: StoredRun) -> str:
    """What a run shares with the one that differs from it in nothing but HFT and the seed."""
    halving = ("hft", "selection")
    apart = {key: value for key, value in run.experiment.items() if key.partition(".")[0] not in halving}
    return sha256(json.dumps(apart, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _in_order(folders: Sequence[Path]) -> list[StoredRun]:
    """The runs, those of HFT after the whole ones. Raises UserError for different models or tasks, and for seeds that
    differ in more."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("name each run once")
    runs = [StoredRun.at(folder) for folder in folders]
    for run in runs:
        if run.published:
            raise UserError(f"{run.folder} is one of the paper's, which come without weights: name runs of your own")
        if (run.benchmark, run.model, run.tasks) != (runs[0].benchmark, runs[0].model, runs[0].tasks):
            raise UserError(f"{run.folder} and {runs[0].folder} are not of the same model and tasks: draw them apart")
    by_method(runs)
    return sorted(runs, key=lambda run: (method_order(run.strategy), run.order))


def _named(matrices: pd.DataFrame, runs: Sequence[StoredRun]) -> pd.DataFrame:
    """The methods by their strategies' names alone, where these tell them apart."""
    short = {run.method: run.strategy for run in runs}
    return matrices.replace({"method": short}) if len(set(short.values())) == len(short) else matrices


def _base(run: StoredRun, named: Path | None) -> Path:
    """The untouched model that the run's configuration names, unless another place of it is named."""
    source, path = (run.config.get(key) for key in ("model.source", "model.path"))
    try:
        return Path(locate(str(source), str(named) if named else path))
    except UserError as error:
        raise UserError(re.sub(r"set model\.path.*", "name its folder as --base", str(error))) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m trace_cl.variation", description="How far runs have moved the model's matrices."
    )
    parser.add_argument("run", metavar="RUN", type=Path, nargs="+", help="finished runs' folders, of one model")
    parser.add_argument(
        "--base", type=Path, help="the untouched model's folder (default: as the runs' config.yaml says)"
    )
    parser.add_argument("--format", choices=["png", "pdf", "png,pdf"], default="png")
    parser.add_argument("--out", type=Path, default=Path("plots"), help="the folder to put picture and figures in")
    options = parser.parse_args(arguments)
    try:
        runs = _in_order(options.run)
        frames = [measure(run, _base(run, options.base)) for run in runs]
        matrices = _named(pd.concat(frames, ignore_index=True), runs)
        drawn = picture(matrices)
        files: dict[str, str | bytes] = {f"variation.{form}": image(drawn, form) for form in options.format.split(",")}
        files |= {"variation.csv": _csv(blocks(matrices)), "variation_matrices.csv": _csv(matrices)}
        print(f"{markdown(findings(matrices))}\n")
        for name, content in files.items():
            save(options.out / name, content)
            print(options.out / name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _csv(frame: pd.DataFrame) -> str:
    return frame.drop(columns="setting").to_csv(index=False)


if __name__ == "__main__":
    leave(main)
