"""Every choice composes, and whatever is no choice is refused with the nearest ones."""

import json
from pathlib import Path

import hydra
import pytest
from support import compose

from trace_cl.build import build_strategy
from trace_cl.choices import groups
from trace_cl.config import CONF_DIR, check, run_folder
from trace_cl.errors import UserError, nearest
from trace_cl.strategies.hft import HalfFineTuning

CHOICES = [f"{group}={choice}" for group, choices in groups().items() for choice in choices]


@pytest.mark.parametrize("override", CHOICES)
def test_every_choice_of_every_group_composes(override: str) -> None:
    config = compose(override)
    check(config)
    build_strategy(config)


@pytest.mark.parametrize(("launcher", "processes"), [("slurm_node", 1), ("slurm_nodes", 32)])
def test_the_presets_for_clusters_compose(launcher: str, processes: int) -> None:
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        composed = hydra.compose("config", [f"hydra/launcher={launcher}"], return_hydra_config=True)
    settings = composed.hydra.launcher
    assert settings._target_.endswith("SlurmLauncher")
    assert settings.nodes * settings.tasks_per_node == processes


def test_a_real_model_picks_the_real_benchmark_and_either_can_be_overridden() -> None:
    assert compose().benchmark.name == "embedded"
    for model in groups()["model"]:
        assert compose(f"model={model}").benchmark.name == ("embedded" if model == "tiny" else "trace")
    assert compose("model=llama2-chat-7b", "benchmark=embedded").benchmark.name == "embedded"
    assert compose("benchmark=trace").model.name == "tiny"


def test_the_papers_protocol() -> None:
    """Tasks, epochs and optimizer as in the HFT paper, appendix A.3."""
    config = compose("model=llama2-chat-7b")
    epochs = {name: config.benchmark.tasks[name].epochs for name in config.benchmark.order}
    assert list(epochs) == [
        "C-STANCE", "FOMC", "MeetingBank", "Py150", "ScienceQA", "NumGLUE-cm", "NumGLUE-ds", "20Minuten",
    ]  # fmt: skip
    assert list(epochs.values()) == [5, 3, 7, 5, 3, 5, 5, 7]
    training = config.training
    assert (training.learning_rate, training.global_batch, training.clip_norm) == (1e-5, 128, 1.0)
    assert (tuple(training.betas), training.weight_decay) == ((0.9, 0.95), 0.0)
    assert (training.prompt_tokens, training.answer_tokens) == (1024, 512)


@pytest.mark.parametrize(
    ("overrides", "method"),
    [
        ((), "seqft"),
        (("hft=true",), "seqft+hft"),
        (("hft=true", "selection=layer"), "seqft+hft-layer"),
        (("hft=true", "selection.mlp=1"), "seqft+hft-2x1"),
        (("hft=true", "selection.embeddings=freeze"), "seqft+hft-frozen_embeddings"),
    ],
)
def test_the_run_directory(overrides: tuple[str, ...], method: str) -> None:
    config = compose("seed=3", *overrides)
    assert run_folder(config, build_strategy(config).name) == Path("runs", "embedded", "tiny", method, "seed3")


def test_hft_wraps_the_strategy() -> None:
    assert isinstance(build_strategy(compose("hft=true")), HalfFineTuning)
    assert not isinstance(build_strategy(compose("hft=false")), HalfFineTuning)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("benchmark.order=[FOMC,Py15]", "no task Py15 in benchmark.tasks; nearest: Py150"),
        ("benchmark.order=[FOMC,FOMC]", "benchmark.order must name at least one task, and none twice"),
        ("benchmark.tasks.FOMC.metric=f1", "benchmark.tasks.FOMC.metric=f1 is not one of accuracy"),
        ("benchmark.tasks.FOMC.epochs=0", "benchmark.tasks.FOMC.epochs=0 must be at least 1"),
        ("metrics.variant=rouge", "metrics.variant=rouge is not one of standard, trace_compat"),
        ("training.global_batch=0", "training.global_batch=0 must be greater than 0"),
        ("model.dtype=int8", "model.dtype=int8 is not one of"),
        ("selection.level=tensor", "selection.level=tensor is not one of category, model, layer"),
        ("selection.attention=5", "selection.attention=5 is not between 0 and 4"),
        ("+modle=tiny", "modle: no such key; nearest: model"),
    ],
)
def test_a_value_no_run_could_use_is_named(override: str, message: str) -> None:
    config = compose(override)
    with pytest.raises(UserError) as refused:  # noqa: PT012  (either of the two may refuse)
        check(config)
        build_strategy(config)
    assert message in str(refused.value)


def test_nearest_names() -> None:
    assert nearest("gemm", ["gem", "seqft", "replay"]) == "gem"
    assert nearest("zzz", ["training.seed", "training.epochs", "hft"]) == "hft, training"


def test_every_table_has_an_experiment_that_leads_to_its_published_run() -> None:
    published = Path(__file__).resolve().parents[2] / "runs" / "published"
    folders = json.loads((published / "tables.json").read_text())["matrices"]
    assert sorted(f"table{number}" for number in folders) == groups()["experiment"]
    for number, folder in folders.items():
        config = compose(f"experiment=table{number}")
        run = run_folder(config, build_strategy(config).name)
        assert run == Path("runs", "trace", folder, "seed1")
        assert (published / folder / "matrix.csv").exists()
        tiny = compose(f"experiment=table{number}", "model=tiny")
        assert run_folder(tiny, build_strategy(tiny).name) == Path("runs", "embedded", "tiny", run.parts[3], "seed1")
