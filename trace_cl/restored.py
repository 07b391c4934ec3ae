"""The model that a run had after one of its rounds, put together again from what the run left behind."""

from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trace_cl.analysis.stored import StoredRun
from trace_cl.build import build_strategy
from trace_cl.config import Config
from trace_cl.data.batches import Encoder
from trace_cl.data.benchmark import load_data, prepare
from trace_cl.errors import UserError
from trace_cl.names import current_name, look_up
from trace_cl.records.files import read_yaml
from trace_cl.records.journal import CHECKPOINT
from trace_cl.records.seal import SEAL, opened, unsealed
from trace_cl.strategies.base import Round, Strategy
from trace_cl.training.layout import device_and_dtype
from trace_cl.training.model import load_model, load_tokenizer, locate


def checkpoint_after(run: StoredRun, round: int) -> Path | None:
    """Where the weights lie that the run had after this round; None where they are the base model's: of round 0, and
    where nothing was learned until then. Raises UserError where they are gone."""
    learned = max((t for t in range(1, round + 1) if run.record(t).get("phases")), default=0)
    if not learned:
        return None
    for folder in (run.folder / CHECKPOINT, run.folder / f"{CHECKPOINT}-round{learned}"):
        if (folder / SEAL).exists() and unsealed(folder / SEAL)["round"] == learned:
            return folder
    raise UserError(
        f"{run.folder}: the weights after round {round} are gone: a run keeps every round's with checkpoints=all"
    )


def check_alone(run: StoredRun) -> None:
    """Raise UserError for a run whose strategy answers with more than its model."""
    strategy = look_up("strategy._target_", config_of(run).strategy._target_)
    if getattr(strategy, "answer", None) is not Strategy.answer:
        raise UserError(
            f"{run.folder}: {run.strategy} answers with more than its model (what a task's prompts, examples or "
            "neighbours add), so that the model alone is not what the run has come to: name runs of other methods"
        )


def model_after(run: StoredRun, round: int, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model as the run answered with it after this round (0: the base model), and its tokenizer, on a device
    (`auto`: a GPU where there is one).

    Raises UserError where its weights are gone, or not what the run wrote.
    """
    config = config_of(run)
    strategy = build_strategy(config)
    checkpoint = checkpoint_after(run, round)
    if checkpoint is not None:
        opened(checkpoint)
    place, dtype = device_and_dtype(device, config.model.dtype)
    base = locate(config.model.source, config.model.path)

    def load(folder: Path | None) -> PreTrainedModel:
        return load_model(str(folder or base), dtype, config.model.source)

    if round and strategy.changes_architecture:
        model = strategy.build(load, checkpoint, rounds_of(config, base))
        if checkpoint is not None:
            strategy.restore(checkpoint)
    else:
        model = load(checkpoint)
    on_device: Any = model  # transformers types the bound method as taking one argument more
    return on_device.to(place).eval(), load_tokenizer(str(checkpoint or base))


def config_of(run: StoredRun) -> DictConfig:
    """The run's configuration, keys that came later at their defaults. Raises UserError where there is none."""
    path = run.folder / "config.yaml"
    if not path.exists():
        raise UserError(f"{path} is missing: it says which model the run is of")
    written = read_yaml(path)
    for section in ("strategy", "logger"):
        written[section]["_target_"] = current_name(written[section]["_target_"])
    return cast(DictConfig, OmegaConf.merge(OmegaConf.structured(Config), written))


def rounds_of(config: DictConfig, base: str) -> list[Round]:
    """The run's rounds, with their data: what a strategy adds to the model may depend on them."""
    strategy = build_strategy(config)
    loaded = load_data(config.benchmark, strategy.uses_instructions)
    encoder = Encoder(load_tokenizer(base), config.training.total_tokens, config.evaluation.prompt_tokens)
    benchmark = prepare(config.benchmark, loaded, config.evaluation.split, encoder)
    return benchmark.rounds(config.seed, config.training.global_batch)
