"""Every choice composes, and whatever is no choice is refused with the nearest ones."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import hydra
import pytest
from support import compose

from trace_cl import choices
from trace_cl.build import build_logger, build_strategy, defaults
from trace_cl.choices import groups, known_keys
from trace_cl.config import CHOICES, CONF_DIR, RANGES, Config, check, only_planned
from trace_cl.errors import UserError, nearest
from trace_cl.identity import run_folder
from trace_cl.run import start
from trace_cl.strategies.base import Strategy
from trace_cl.strategies.hft import HalfFineTuning
from trace_cl.strategies.selection import Selection

OFFERED = [f"{group}={choice}" for group, choices in groups().items() for choice in choices]


@pytest.mark.parametrize("override", OFFERED)
def test_every_choice_of_every_group_composes(override: str) -> None:
    config = compose(override)
    check(config)
    build_strategy(config)


@pytest.mark.parametrize(("launcher", "processes"), [("slurm_node", 8), ("slurm_nodes", 32)])
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
    assert (training.total_tokens, config.evaluation.prompt_tokens) == (1536, 1024)


def test_an_order_goes_by_its_name() -> None:
    """Order 2 is SEEKR's (arXiv 2411.06171); a random one is a permutation that its number or the seed fixes."""

    def order(*overrides: str) -> list[str]:
        config = compose(*overrides)
        check(config)
        return list(config.benchmark.order)

    default = order()
    assert order("benchmark.order=1") == order("benchmark=trace") == default
    assert order("benchmark.order=2") == order("benchmark=trace", "benchmark.order=2") == [
        "NumGLUE-cm", "NumGLUE-ds", "FOMC", "20Minuten", "C-STANCE", "Py150", "MeetingBank", "ScienceQA",
    ]  # fmt: skip
    drawn = [tuple(order(f"benchmark.order=random{number}")) for number in range(5)]
    assert len(set(drawn)) == 5
    assert all(sorted(each) == sorted(default) for each in drawn)
    assert [tuple(order("benchmark.order=random", f"seed={number}")) for number in range(5)] == drawn
    assert order("+benchmark.orders.short=[FOMC,Py150]", "benchmark.order=short") == ["FOMC", "Py150"]


def test_one_number_of_epochs_is_every_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    for override, wanted in (("benchmark.epochs=2", {2}), ("benchmark.epochs=null", {3, 5, 7})):
        start(compose("dry_run=json", override))
        assert {round["epochs"] for round in json.loads(capsys.readouterr().out)["rounds"]} == wanted


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
        ("benchmark.order=3", "benchmark.order=3 is neither a list of tasks nor one of 1, 2, random; a single task"),
        ("benchmark.order=FOMC", "a single task stands in brackets"),
        ("benchmark.order=[1,2]", "benchmark.order=[1, 2] must list tasks' names"),
        ("+benchmark.orders.FOMC=[FOMC]", "benchmark.orders.FOMC: an order's name is of letters, digits"),
        ("+benchmark.orders.random2=[FOMC]", "does not begin with random; give it another"),
        ("benchmark.epochs=0", "benchmark.epochs=0 must be at least 1"),
        ("benchmark.tasks.FOMC.metric=f1", "benchmark.tasks.FOMC.metric=f1 is not one of accuracy"),
        ("benchmark.tasks.FOMC.metric=no.f1", "benchmark.tasks.FOMC.metric=no.f1: there is no module no"),
        ("benchmark.tasks.FOMC.metric=json.dump1", "json has no dump1; nearest: dump, dumps"),
        ("benchmark.tasks.FOMC.metric=json.__name__", "is no function of predictions and references"),
        ("benchmark.source=web", "benchmark.source=web is not one of files, generated"),
        ("benchmark.generator=null", "benchmark.source=generated needs benchmark.generator"),
        ("benchmark.instructions=FOMC", "benchmark.instructions=FOMC is one of the tasks"),
        ("dry_run=maybe", "dry_run=maybe is not one of true, false, json"),
        ("model.source=null", "model.source is not set"),
        ("strategy._target_=seqft", "strategy._target_=seqft is no dotted name"),
        ("strategy._target_=trace_cl.strategies.seqft.SeqFt", "trace_cl.strategies.seqft has no SeqFt; nearest: SeqFT"),
        ("+strategy.margn=1", "strategy.margn: SeqFT takes no such value"),
        ("benchmark.tasks.FOMC.epochs=0", "benchmark.tasks.FOMC.epochs=0 must be at least 1"),
        ("metrics.variant=rouge", "metrics.variant=rouge is not one of standard, trace_compat"),
        ("training.total_tokens=1", "training.total_tokens=1 must be at least 2"),
        ("evaluation.prompt_tokens=0", "evaluation.prompt_tokens=0 must be at least 1"),
        ("training.global_batch=0", "training.global_batch=0 must be at least 1"),
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


def number_keys(kind: type, prefix: str = "") -> Iterator[str]:
    """The keys of a class of the schema, and of the classes in it, that hold numbers; `*` stands for any name."""
    for field in fields(kind):
        key, said = f"{prefix}{field.name}", get_type_hints(kind)[field.name]
        if is_dataclass(said) and said is not Selection:
            assert isinstance(said, type)
            yield from number_keys(said, f"{key}.")
        elif get_origin(said) is dict and is_dataclass(part := get_args(said)[1]):
            assert isinstance(part, type)
            yield from number_keys(part, f"{key}.*.")
        elif {int, float} & {said, *get_args(said)}:
            yield key


def test_every_number_of_the_schema_has_a_range() -> None:
    mixed = {"benchmark.counts.*", "training.tokens_per_batch", "evaluation.tokens_per_batch"}  # one or three; auto
    assert (set(number_keys(Config)) - set(CHOICES)) | mixed == set(RANGES)


@pytest.mark.parametrize("key", [key for key in RANGES if "*" not in key])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_no_number_may_be_endless_or_negative(key: str, value: str) -> None:
    with pytest.raises(UserError, match=re.escape(key)):
        check(choices.compose([f"{key}=[0.9,{value}]" if key == "training.betas" else f"{key}={value}"]))


def test_what_a_user_wrote_need_not_be_derived_from_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class with the methods of a strategy, or of a logger, is one."""
    names = [name for name, value in vars(Strategy).items() if callable(value) and not name.startswith("_")]
    methods = "".join(f"    def {name}(self, *args): ...\n" for name in names)
    loggers = "".join(f"    def {name}(self, *args): ...\n" for name in ("begin", "log", "close"))
    (tmp_path / "look_alikes.py").write_text(
        f"class Method:\n    name = 'mine'\n{methods}\nclass Log:\n{loggers}\ndef function(): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = compose("strategy._target_=look_alikes.Method", "logger._target_=look_alikes.Log")
    check(config)
    assert build_strategy(config).name == "mine"
    assert hasattr(build_logger(config), "begin")
    for section, target, sentence in (
        ("strategy", "Log", "is no class of a strategy: it has no build, save_model, prepare"),
        ("logger", "Method", "is no class of a logger: it has no begin, log, close"),
        ("logger", "function", "is no class of a logger"),
    ):
        wrong = compose(f"{section}._target_=look_alikes.{target}")
        with pytest.raises(UserError, match=sentence):
            {"strategy": build_strategy, "logger": build_logger}[section](wrong)


@pytest.mark.parametrize("spelled", ["true", "yes", "on", "1", "json", "false", "no", "off", "0"])
def test_a_dry_run_is_asked_for_in_any_spelling(spelled: str) -> None:
    config = compose(f"dry_run={spelled}")
    check(config)
    assert only_planned(config) == (spelled in ("true", "yes", "on", "1", "json"))


def test_the_rate_of_adapters_is_asked_for_only_where_one_learns() -> None:
    check(compose("model.adapter_learning_rate=null"))
    with pytest.raises(UserError, match=r"training.learning_rate=\$\{model.adapter_learning_rate\}, which is not set"):
        check(compose("strategy=lora_seqft", "model.adapter_learning_rate=null"))
    check(compose("strategy=lora_seqft", "model.adapter_learning_rate=null", "training.learning_rate=1e-3"))


OWN = """
from dataclasses import dataclass
from trace_cl.strategies import SeqFT
from trace_cl.strategies.gem import GEM

@dataclass
class Typed(SeqFT):
    strength: float = 1.0

class Plain(SeqFT):
    def __init__(self, strength, times=2):
        if strength < 0:
            raise ValueError(f"strategy.strength={strength} is negative")
        self.strength, self.times = strength, times

class Derived(GEM):
    def __init__(self, strength=3):
        super().__init__(memory_size=5)
        self.strength = strength

class Anything(SeqFT):
    def __init__(self, **settings):
        self.settings = settings

import nowhere_to_be_found  # the user's own mistake
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strategies of one's own, in a module and in one that does not import."""
    (tmp_path / "own_strategies.py").write_text(OWN.rpartition("import nowhere")[0])
    (tmp_path / "own_mistake.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("own")
def test_a_strategy_is_a_dataclass_or_has_its_own_init() -> None:
    def built(name: str, **settings: object) -> object:
        config = compose()
        config.strategy = {"_target_": f"own_strategies.{name}", **settings}
        return build_strategy(config)

    assert vars(built("Typed", strength="2"))["strength"] == 2.0, "a dataclass makes its fields' types of the values"
    assert vars(built("Plain", strength=1)) == {"strength": 1, "times": 2}
    assert vars(built("Derived", strength=4))["memory_size"] == 5
    assert vars(built("Anything", a=1, b=2)) == {"settings": {"a": 1, "b": 2}}
    for name, settings, sentence in (
        (
            "Typed",
            {"strength": "much"},
            "strategy.strength: Value 'much' of type 'str' could not be converted to Float",
        ),
        ("Typed", {"strenght": 1}, "strategy.strenght: Typed takes no such value; nearest: strength"),
        ("Plain", {"strength": 1, "time": 3}, "strategy.time: Plain takes no such value; nearest: times"),
        ("Plain", {}, "strategy.strength is not set: Plain needs it"),
        ("Plain", {"strength": -1}, "strategy.strength=-1 is negative"),
        ("Plane", {}, "strategy._target_=own_strategies.Plane: own_strategies has no Plane; nearest: Plain"),
    ):
        with pytest.raises(UserError) as refused:
            built(name, **settings)
        assert str(refused.value) == sentence
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        build_strategy(compose("strategy._target_=own_mistake.Typed"))


def test_an_old_name_of_a_class_is_understood() -> None:
    config = compose("strategy=gem")
    config.strategy._target_ = "strategies.gem.GEM"
    assert type(build_strategy(config)) is type(build_strategy(compose("strategy=gem")))


def test_defaults_are_those_of_the_schema_and_of_the_strategy() -> None:
    found = defaults(compose("strategy=gem", "strategy.margin=3", "training.eps=1"))
    assert (found["training.eps"], found["training.betas"], found["strategy.margin"]) == (1e-8, [0.9, 0.95], 0.5)
    assert "benchmark.name" not in found
    assert found["benchmark.drop_leaked"] is False


def test_known_keys_are_those_of_what_is_chosen() -> None:
    assert "strategy.margin" not in known_keys()
    assert {"strategy.margin", "model.path", "strategy", "hft"} <= set(known_keys(["strategy=gem", "seed=3"]))
    assert "strategy.margin" in known_keys(["strategy=gem,replay"])
    assert set(known_keys(["strategy=lora_seqft"])) > {"training.learning_rate"}


def test_choices_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "strategy").mkdir()
    (tmp_path / "strategy" / "mine.yaml").write_text("_target_: mine.Mine\nstrength: 1\n")
    assert groups(tmp_path)["strategy"] == sorted([*groups()["strategy"], "mine"])
    assert choices.compose(["strategy=mine"], tmp_path).strategy.strength == 1
    for override, sentence in (
        ("strategy=mne", "strategy=mne: no such choice; nearest: mine"),
        ("strategy.strenght=2", "strategy.strenght: no such key; nearest: strategy.strength"),
    ):
        with pytest.raises(UserError, match=sentence):
            choices.compose(["strategy=mine", override], tmp_path)


def test_nearest_names() -> None:
    assert nearest("gemm", ["gem", "seqft", "replay"]) == "gem"
    assert nearest("zzz", ["training.seed", "training.epochs", "hft"]) == "hft, training"


def test_every_table_has_an_experiment_that_leads_to_its_published_run() -> None:
    published = Path(__file__).resolve().parents[2] / "runs" / "published"
    folders = json.loads((published / "tables.json").read_text())["matrices"]
    assert sorted(f"table{number}" for number in folders) == [
        name for name in groups()["experiment"] if not name.startswith(("table5-", "figure3-"))
    ]
    for number, folder in folders.items():
        config = compose(f"experiment=table{number}")
        run = run_folder(config, build_strategy(config).name)
        assert run == Path("runs", "trace", folder, "seed1")
        assert (published / folder / "matrix.csv").exists()
        tiny = compose(f"experiment=table{number}", "model=tiny")
        assert run_folder(tiny, build_strategy(tiny).name) == Path("runs", "embedded", "tiny", run.parts[3], "seed1")
