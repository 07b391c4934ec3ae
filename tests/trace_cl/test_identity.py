"""Where a run lies: different experiments never share a place, and one experiment has one, however it was written."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from support import compose

from trace_cl.build import build_strategy, defaults
from trace_cl.config import as_dict, check
from trace_cl.errors import UserError
from trace_cl.identity import differences, experiment, method_name, own_settings, run_folder
from trace_cl.records.files import flatten
from trace_cl.records.journal import Journal
from trace_cl.run import start
from trace_cl.strategies import Strategy


def place(*overrides: str) -> str:
    """The run's directory, below runs_dir."""
    config = compose(*overrides)
    check(config)
    return str(run_folder(config, build_strategy(config).name).relative_to("runs"))


@pytest.mark.parametrize(
    ("overrides", "method"),
    [
        ("strategy=replay strategy.ratio=1 training.learning_rate=0.1", "replay-ratio1-lr0.1"),
        ("benchmark.order=[FOMC] benchmark.max_train=16", "seqft-order_FOMC-max_train16"),
        ("benchmark.order=[Py150,FOMC] hft=true", "seqft+hft-order_Py150+FOMC"),
        ("benchmark.order=2 benchmark.epochs=1", "seqft-order2-task_epochs1"),
        ("benchmark.order=random7", "seqft-order_random7"),
        ("benchmark.order=random seed=1", "seqft-order_random1"),  # it is that one, whatever the seed
        ("hft=true selection=layer training.eps=1e-06", "seqft+hft-layer-eps1e-6"),
        ("model.learning_rate=0.1", "seqft-lr0.1"),
        ("strategy=progressive_prompts strategy.prompt_tokens=20", "progressive_prompts-strategy.prompt_tokens20"),
        ("strategy=progressive_prompts training.learning_rate=0.2", "progressive_prompts-lr0.2"),
        (
            "strategy=gem strategy.memory=last_batch strategy.projection=tensor",
            "gem-memory_last_batch-projection_tensor",
        ),
        ("strategy=lora_seqft strategy.target_modules=null", "lora_seqft-target_modules_null"),
        ("benchmark.tasks.FOMC.epochs=1", "seqft-FOMC.epochs1"),
        ("benchmark.drop_leaked=true", "seqft-drop_leaked_true"),
        ("metrics.variant=trace_compat evaluation.split=eval", "seqft-split_eval-variant_trace_compat"),
        ("training.betas=[0.9,0.99]", "seqft-betas_0.9+0.99"),
        ("model.dtype=bf16", "seqft-dtype_bf16"),
        ("device=cpu", "seqft-device_cpu"),  # fp32, where a GPU computes in bf16
        ("model.source=someone/else", r"seqft-model.source_someone_else-[0-9a-f]{8}"),
        ("benchmark=trace benchmark.edition=500", "seqft-edition500"),
        ("benchmark=trace benchmark.edition=reasoning", "seqft-edition_reasoning"),
        ("benchmark=trace benchmark.template=x", "seqft-template_x"),
        ("benchmark.order=[C-STANCE]", r"seqft-order_C-STANCE-[0-9a-f]{8}"),
        ("benchmark.order=[20Minuten,NumGLUE-ds,NumGLUE-cm,FOMC,MeetingBank,Py150]", r"seqft-order-[0-9a-f]{8}"),
    ],
)
def test_what_changes_results_stands_in_the_name(overrides: str, method: str) -> None:
    found = place(*overrides.split())
    assert re.fullmatch(rf"(embedded|trace)/tiny/{method}/seed1", found) or found == f"embedded/tiny/{method}/seed1"


@pytest.mark.parametrize(
    "overrides",
    [
        "",
        "engine=deepspeed engine.zero_stage=3 checkpoints=all logger=tensorboard dry_run=true",
        "training.tokens_per_batch=9 evaluation.tokens_per_batch=9 benchmark.root=/somewhere",
        "evaluation.reference_loss=false",  # is measured beside the scores
        "evaluation.zero_shot=false",  # adds the base model's scores, and changes none
        "device=cuda:1",
        "selection=layer",  # without hft
        "training.learning_rate=6e-4 benchmark.max_train=null training.clip_norm=1",
        "model.learning_rate=0.1 training.learning_rate=6e-4",
        "model.path=/a/copy",
        "benchmark.source=files benchmark.reader=datasets benchmark.tasks.FOMC.dataset=x",
        "+benchmark.counts={FOMC:[1,2,3]}",
    ],
)
def test_what_does_not_is_not_named(overrides: str) -> None:
    assert place(*overrides.split()) == "embedded/tiny/seqft/seed1"


def test_however_it_is_written_it_is_one_place() -> None:
    first = ["strategy=replay", "strategy.epochs=2", "training.learning_rate=0.10", "benchmark.max_test=7"]
    second = ["benchmark.max_test=7", "training.learning_rate=1e-1", "strategy=replay", "strategy.ratio=0.10"]
    second += ["strategy.epochs=2"]
    assert place(*first) == place(*second) == "embedded/tiny/replay-epochs2-max_test7-lr0.1/seed1"
    long = [f"benchmark.tasks.{task}.epochs=9" for task in ("FOMC", "Py150", "C-STANCE", "ScienceQA", "MeetingBank")]
    assert place(*long) == place(*reversed(long))
    assert place(*long) != place(*long[1:])


def test_a_rank_and_a_program_find_the_place_that_the_command_finds() -> None:
    """They hold plain values, without Hydra or the schema's types."""
    for overrides in ((), ("strategy=gem", "training.betas=[0.5,0.9]", "benchmark.order=[FOMC]")):
        config = compose(*overrides)
        plain = OmegaConf.create(json.loads(json.dumps(as_dict(config))))
        method = build_strategy(config).name
        assert run_folder(plain, method) == run_folder(config, method)


def test_the_plan_shows_the_place(capsys: pytest.CaptureFixture[str]) -> None:
    start(compose("dry_run=json", "benchmark.order=[FOMC]", "benchmark.max_train=16"))
    assert json.loads(capsys.readouterr().out)["folder"] == "runs/embedded/tiny/seqft-order_FOMC-max_train16/seed1"


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module with strategies of a user's own: one with a name, one that has its parent's."""
    module = ModuleType("mine")

    class Mine(Strategy):
        name = "mine"

        def __init__(self, part: float = 0.5) -> None:
            self.part = part

    class Nameless(Strategy):
        pass

    vars(module).update(Mine=Mine, Nameless=Nameless)
    monkeypatch.setitem(sys.modules, "mine", module)
    return module


def test_of_a_strategy_of_ones_own_the_classes_defaults_are_its_setting(mine: ModuleType) -> None:
    assert place("strategy._target_=mine.Mine") == "embedded/tiny/mine/seed1"
    assert place("strategy._target_=mine.Mine", "+strategy.part=0.5") == "embedded/tiny/mine/seed1"
    found = place("strategy._target_=mine.Mine", "+strategy.part=0.25", "training.eps=1")
    assert re.fullmatch(r"embedded/tiny/mine-part0.25-eps1/seed1", found)


def test_a_strategy_of_ones_own_never_lies_where_one_of_the_projects_does(mine: ModuleType) -> None:
    assert place("strategy._target_=mine.Nameless") == "embedded/tiny/seqft-target_mine.Nameless/seed1"


def test_a_benchmark_and_a_model_of_ones_own_are_what_they_say() -> None:
    own = ("benchmark.name=mine", "benchmark.instructions=null", "training.global_batch=3", "model.name=mymodel")
    assert place(*own, "model.learning_rate=0.5") == "mine/mymodel/seqft/seed1"
    assert place(*own, "training.learning_rate=0.5") == "mine/mymodel/seqft-lr0.5/seed1"
    assert place(*own, "benchmark.order=[FOMC]") == "mine/mymodel/seqft-order_FOMC/seed1"
    assert place(*own, "benchmark.max_test=5") == "mine/mymodel/seqft-max_test5/seed1"
    assert place(*own, "strategy=l2p", "model.prompt_learning_rate=0.1") == "mine/mymodel/l2p/seed1"
    adapter = (*own, "strategy=lora_seqft", "model.adapter_learning_rate=0.1")
    for targets in ("[k_proj]", "null"):
        assert place(*adapter, f"model.adapter_targets={targets}") == "mine/mymodel/lora_seqft/seed1"
    assert place(*adapter, "strategy.target_modules=[k_proj]") == "mine/mymodel/lora_seqft-target_modules_k_proj/seed1"


NEW = ("template", "answer", "options", "dataset", "subset", "revision", "reader", "splits", "edition", "editions")
"""Keys of a benchmark or a task that runs of earlier versions do not have."""


@pytest.mark.parametrize("benchmark", ["embedded", "trace", "mine"])
def test_a_run_from_before_a_key_was_there_is_the_same_experiment(benchmark: str, tmp_path: Path) -> None:
    own = (["benchmark.name=mine"] if benchmark == "mine" else [f"benchmark={benchmark}"]) + [f"runs_dir={tmp_path}"]
    config = compose(*own)
    check(config)
    now = as_dict(config)
    old = json.loads(json.dumps(now))
    for section in (old["benchmark"], *old["benchmark"]["tasks"].values()):
        for key in NEW:
            section.pop(key, None)
    folder = run_folder(config, "seqft")
    assert folder == tmp_path / benchmark / "tiny" / "seqft" / "seed1"
    before, after = dict(flatten(old)), dict(flatten(now))
    assert before != after
    assert method_name("seqft", before, own_settings(before, "seqft")) == "seqft"
    sides = [experiment(each, own_settings(each, "seqft")) for each in (before, after)]
    assert sides[0] == sides[1]
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(old)))
    journal = Journal(folder, list(config.benchmark.order))
    journal.check(now, defaults(config))
    config.benchmark.tasks.FOMC.template = "{prompt}!"
    with pytest.raises(UserError, match=r"benchmark\.tasks\.FOMC\.template \(None there, \{prompt\}! here\)"):
        journal.check(as_dict(config), defaults(config))


SETTINGS = dict(flatten(as_dict(compose("strategy=gem"))))
OWN = own_settings(SETTINGS, "gem")
TEXTS = st.sampled_from(
    ["a", "A", "a-b", "true", "null", "1", "1e5", "", "x/../y", "é", "a+b", "a_b", ".", "lr0.1", "w" * 99]
)
NUMBERS = st.one_of(st.integers(-3, 30), st.floats(-2, 2, width=16), st.just(1e-5))
VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), NUMBERS, TEXTS, st.lists(st.one_of(TEXTS, NUMBERS), max_size=3)
)
KEYS = st.sampled_from(
    [
        *("strategy._target_", "strategy.memory", "strategy.memory_size", "strategy.eps", "strategy.r", "strategy.r1"),
        *("strategy.a.b", "benchmark.order", "benchmark.max_train", "benchmark.tasks.FOMC.epochs", "training.betas"),
        *("benchmark.tasks.x-y.epochs", "model.dtype", "training.learning_rate", "training.eps", "metrics.variant"),
    ]
)


def said(value: Any) -> Any:
    """A value so that those that mean the same are equal, and others are not."""
    if isinstance(value, list):
        return [said(item) for item in value]
    return (type(value).__name__ if isinstance(value, bool | str | None) else "number", value)


CONFUSABLE: tuple[Any, ...] = (
    *(
        None,
        "null",
        [None],
        True,
        "true",
        1,
        "1",
        [1],
        ["1"],
        [True],
        "a",
        ["a"],
        [["a"]],
        "A",
        "a+b",
        ["a", "b"],
        ["a+b"],
        [],
    ),
    *(
        "",
        "a-b",
        "a_b",
        "a/b",
        "é",
        "ü",
        "x" * 99,
        "y" * 99,
        ["x" * 99],
        1e-5,
        "1e-5",
        -1,
        "-1",
        0.1,
        0.10000000000000002,
    ),
)


@pytest.mark.parametrize("key", ["strategy.memory", "strategy.r", "benchmark.order", "model.dtype", "training.eps"])
def test_different_values_never_share_a_name(key: str) -> None:
    names = [method_name("gem", {**SETTINGS, key: value}, OWN) for value in CONFUSABLE]
    kept = [value for value in CONFUSABLE if value != OWN.get(key)]
    assert len(set(names)) == len({repr(said(value)) for value in kept}) + (len(kept) < len(CONFUSABLE))


@settings(max_examples=500, deadline=None)
@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=4), min_size=2, max_size=2))
def test_different_settings_never_share_a_name(changes: list[dict[str, Any]]) -> None:
    """But for words that only strategies of one's own could confuse, whatever the values."""
    made = [{**SETTINGS, **change} for change in changes]
    names = [method_name("gem", each, OWN) for each in made]
    different = [{key: said(value) for key, value in differences(each, OWN).items()} for each in made]
    assert (names[0] == names[1]) == (different[0] == different[1])
    for name in names:
        assert re.fullmatch(r"gem[A-Za-z0-9._+=-]*", name)
        assert len(name) <= 100


@pytest.mark.parametrize("name", ["a/b", "..", "", "x" * 67, "ü", "a b"])
def test_a_strategys_name_that_no_folder_can_have_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"^strategy"):
        method_name(name, {}, {})


@pytest.mark.parametrize("key", ["benchmark.name", "model.name"])
@pytest.mark.parametrize(
    "name", ["../../x", "/tmp/x", "..", ".", "'  '", "a\\b", "'a\tb'", "'a\nb'", ".sweeps", "é" * 51]
)
def test_a_name_that_leads_elsewhere_is_refused(key: str, name: str) -> None:
    config = compose()
    OmegaConf.update(config, key, name.strip("'"))
    with pytest.raises(UserError, match=rf"^{key}=.* cannot name a folder: give it a name") as caught:
        check(config)
    assert "\n" not in str(caught.value)


def test_the_papers_folder_is_no_benchmark() -> None:
    for name in ("published", "Published", "report.html"):
        with pytest.raises(UserError, match=f"^benchmark.name={name}: something else lies there"):
            check(compose(f"benchmark.name={name}"))


@pytest.mark.parametrize(
    ("tasks", "sentence"),
    [
        (["../x/FOMC"], "benchmark.order='../x/FOMC' cannot name a folder"),
        (["FOMC", "."], "benchmark.order='.' cannot name a folder"),
        (["a\nb"], r"benchmark.order='a\nb' cannot name a folder"),
        (["round"], "benchmark.order: a task named round cannot be a column"),
        (["a,b"], "benchmark.order: a task named a,b cannot be a column"),
        (['"a"'], 'benchmark.order: a task named "a" cannot be a column'),
        (["FOMC", "fomc"], "benchmark.order: FOMC and fomc would share a file"),
    ],
)
def test_tasks_that_would_lead_elsewhere_or_collide_are_refused(tasks: list[str], sentence: str) -> None:
    config = compose()
    config.benchmark.order = tasks
    with pytest.raises(UserError) as caught:
        check(config)
    assert str(caught.value).startswith(sentence)


def test_every_model_and_benchmark_that_comes_along_has_a_good_name() -> None:
    for path in Path("conf/model").glob("*.yaml"):
        check(compose(f"model={path.stem}"))
