"""What the dry run counts, by hand."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import TASKS, Killed, compose, killed_after, results
from transformers import AutoConfig

from trace_cl.build import build_strategy
from trace_cl.config import as_dict
from trace_cl.data.batches import DRAFT
from trace_cl.data.benchmark import Benchmark, Task
from trace_cl.dry_run import render
from trace_cl.errors import UserError
from trace_cl.needs import MEMORY_GRADIENTS, Needs, decide, fastest, settle
from trace_cl.plan import tokens
from trace_cl.records.files import flatten, read_yaml
from trace_cl.records.journal import Journal
from trace_cl.strategies.base import Example, Phase
from trace_cl.training.automatic import ANSWERED, RECOMPUTED, TOKENS
from trace_cl.training.free_memory import FreeMemory
from trace_cl.training.layout import Layout
from trace_cl.training.model import build_on_meta
from trace_cl.training.ranks import Ranks

EXAMPLE = Example([1], [2])


def test_an_epochs_last_batch_may_be_smaller() -> None:
    assert Phase("a", [EXAMPLE] * 12, 5).steps(5) == 15
    assert Phase("a", [EXAMPLE] * 10, 3).steps(5) == 6


PLAN = {
    "folder": "runs/a/b/seqft/seed1",
    "model": "b",
    "parameters": 1234,
    "optimizer_steps": 12345,
    "decided": {"engine.gradient_checkpointing": True},
    "flops": None,
    "memory_per_device": {
        "dtype": "float32", "processes": 1, "round": 2, "weights": 3 * 2**30, "gradients": 2**20, "optimizer": 0,
        "strategy": 0, "activations": None, "total": None, "answering": 2**31, "scoring_cache": 2**30, "context": 0,
        "fits": False,
    },
    "rounds": [
        {"round": 1, "task": "A", "epochs": 2, "examples": 7, "optimizer_steps": 3, "tokens": None,
         "trainable_share": 0.25, "flops": None},
    ],
    "unknown": ["tokens.training"],
}  # fmt: skip


def test_a_plan_is_a_table_for_people_and_json_for_programs() -> None:
    assert json.loads(render(PLAN, as_json=True)) == PLAN
    text = render(PLAN, as_json=False)
    assert re.search(r"^ +1 +A +2 +7 +3 +\? +25\.0% +\?$", text, re.MULTILINE)
    assert "12,345 optimizer steps" in text
    assert "engine.gradient_checkpointing=true (auto)" in text.splitlines()
    assert text.splitlines()[-4:] == [
        "  weights 3.0 GiB, gradients 1 MiB",
        "  while it answers: weights and work 2.0 GiB, cache 1.0 GiB",
        "  there is no room for it here",
        "not known without the data (benchmark.root): tokens, FLOPs, and the memory that activations take",
    ]


def test_a_calibrated_plan_says_hours_as_a_clock_does() -> None:
    hours = {"training": 25.5, "scoring": 1 / 60, "saving": 1 / 3600}
    calibrated = PLAN | {
        "rounds": [PLAN["rounds"][0] | {"hours": hours}],  # type: ignore[index]
        "hours": hours | {"zero_shot": 0.0},
        "disk": {"checkpoint": 2**30, "most": 3 * 2**30},
    }
    text = render(calibrated, as_json=False)
    assert re.search(r"^ +1 +A .*\? +25:30:00 +0:01:00 +0:00:01$", text, re.MULTILINE)
    assert "hours, measured in small: training 25:30:00, scoring 0:01:00, saving 0:00:01, zero-shot 0:00:00" in text
    assert "on the disk: a checkpoint 1.0 GiB, all 3.0 GiB at most" in text


def test_tokens_count_every_epoch() -> None:
    assert tokens([Phase("a", [EXAMPLE, Example([1, 2], [3])], 3), Phase("b", [Example([1], [])], 1)]) == 16


GIB = 2**30
COUNTED: dict[str, tuple[dict[Any, int], dict[Any, tuple[int, int]]]] = {}
"""What was counted of the model below, by strategy: it takes its time, and is the same in every test."""


def needs_of(*overrides: str) -> Needs:
    """Of a run of three rounds with a model of 0.8 billion parameters; prompts of 200 tokens, answers of 50."""
    config = compose(
        "model=llama2-chat-7b",
        "model.architecture.hidden_size=2048",
        "model.architecture.intermediate_size=5632",
        "model.architecture.num_hidden_layers=12",
        "model.architecture.num_attention_heads=16",
        "model.architecture.num_key_value_heads=16",
        "model.dtype=bf16",
        "engine.gradient_checkpointing=true",
        f"benchmark.order=[{','.join(TASKS)}]",
        *overrides,
    )
    example = Example([1] * 200, [2] * 50)
    task = Task("", 1, "accuracy", 50, [example] * 200, [example.prompt] * 200, [], [], [])
    benchmark = Benchmark([replace(task, name=name) for name in TASKS], [example] * 200, {})
    strategy = build_strategy(config)
    sizes = AutoConfig.for_model(**as_dict(config.model.architecture))
    model = strategy.build(lambda _: build_on_meta(sizes, torch.bfloat16), None, benchmark.rounds(1, 8))
    counted, answers = COUNTED.setdefault(strategy.name, ({}, {}))
    return Needs(config, strategy, benchmark, model, torch.bfloat16, counted, answers)


def settled(monkeypatch: pytest.MonkeyPatch, free: float, *overrides: str, ranks: int = 1, main: float = 999) -> str:
    """What comes of a run where so many GiB are free on each GPU: the engine, or the refusal."""
    monkeypatch.setattr("trace_cl.needs.measure", lambda device, ranks: FreeMemory(int(free * GIB), int(main * GIB)))
    try:
        settings = settle(needs_of(*overrides), torch.device("cuda"), Ranks(0, ranks))
    except UserError as error:
        return str(error)
    return f"{settings.name}{' offloaded' if settings.offload_optimizer else ''}"


GEM = ("strategy=gem", "strategy.memory_gradients=stored")
FIXED = (
    "engine.gradient_checkpointing=true",
    "training.tokens_per_batch=8192",
    "evaluation.tokens_per_batch=32768",
)


def test_gem_is_refused_for_its_last_round_and_told_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two past tasks' gradients in the third round, of 4 bytes a parameter; none in the first."""
    gem = needs_of(*GEM)
    round, memory = gem.hardest(Layout(gradient_checkpointing=True), FreeMemory(1, 1))
    parameters = sum(p.numel() for p in gem.model.parameters())
    assert (round.number, memory.strategy, memory.context) == (3, 2 * 4 * parameters, 2 * GIB)
    total = memory.total / GIB
    assert settled(monkeypatch, total + 0.01, *GEM) == "torch"
    refused = settled(monkeypatch, total - 0.01, *GEM)
    assert refused.startswith(f"gem on llama2-chat-7b needs {total:.1f} GiB on each device in round 3, the hardest")
    assert "\n" not in refused
    [said] = re.findall(r": set (.+)$", refused)
    assert settled(monkeypatch, total - 0.01, *GEM, *said.split()) == "torch", said
    for fewer in said.split():
        others = [setting for setting in said.split() if setting != fewer]
        assert "needs" in settled(monkeypatch, total - 0.01, *GEM, *others), f"{fewer} was not needed"


def test_gem_streams_where_what_it_would_store_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hardest round with gradients stored, and without."""
    needs, layout = needs_of("strategy=gem", *FIXED), Layout(gradient_checkpointing=True)
    bytes_of = {
        how: needs.under({MEMORY_GRADIENTS: how}).hardest(layout, FreeMemory(1, 999 * GIB))[1].total
        for how in ("stored", "streamed")
    }
    assert bytes_of["streamed"] < bytes_of["stored"]

    def decided(needs: Needs, room: FreeMemory | None) -> str:
        return str(decide(needs, 1, room, {})[0].config.strategy.memory_gradients)

    assert decided(needs, None) == "stored", "where nothing is known of the device"
    for how, free in (("stored", bytes_of["stored"]), ("streamed", bytes_of["stored"] - 1), ("streamed", 1)):
        assert decided(needs, FreeMemory(free, 999 * GIB)) == how
    assert decided(needs_of("strategy=gem", "strategy.refresh_every=2", *FIXED), FreeMemory(1, 1)) == "stored", (
        "as it must be"
    )
    assert decided(needs_of(*GEM, *FIXED), FreeMemory(1, 1)) == "stored", "as it is asked for"
    assert decide(needs_of(*FIXED), 1, FreeMemory(1, 1), {})[1] == {}
    auto = decide(needs_of("strategy=gem", *AUTO), 1, FreeMemory(1, 1), {})[1]
    assert auto == {RECOMPUTED: True, TOKENS: 1024, ANSWERED: 2048, MEMORY_GRADIENTS: "streamed"}


def test_layers_that_would_draw_their_dropout_twice_are_not_streamed() -> None:
    drawing = needs_of("strategy=gem")
    drawing.model.config.attention_dropout = 0.1
    assert decide(drawing, 1, FreeMemory(1, 1), {})[1][MEMORY_GRADIENTS] == "stored"
    with pytest.raises(UserError, match=r"llama2-chat-7b has dropout.*set strategy.memory_gradients=stored"):
        decide(drawing.under({MEMORY_GRADIENTS: "streamed"}), 1, FreeMemory(1, 1), {})


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("hft", ["true", "false"])
def test_streamed_gem_at_7b_needs_little_more_than_seqft(hft: str, stage: int) -> None:
    """In its eighth round; TRACE's longest texts, everything that is there in training."""
    example = Example([1] * 1500, [2] * 36)
    needed = {}
    for strategy in ("seqft", "gem"):
        overrides = [f"strategy={strategy}", *(["strategy.memory_gradients=streamed"] if strategy == "gem" else [])]
        config = compose("model=llama2-chat-7b", "model.dtype=bf16", f"hft={hft}", *overrides)
        task = Task("", 1, "accuracy", 50, [example] * 128, [example.prompt], [], [], [])
        benchmark = Benchmark([replace(task, name=name) for name in config.benchmark.order], [], {})
        sizes = AutoConfig.for_model(**as_dict(config.model.architecture))
        needs = Needs(config, build_strategy(config), benchmark, build_on_meta(sizes, torch.bfloat16), torch.bfloat16)
        for layout in (Layout(gradient_checkpointing=True), Layout(stage, 8, gradient_checkpointing=True)):
            needed[strategy, layout] = needs.hardest(layout, None)[1].training
    for layout in {layout for _, layout in needed}:
        assert 1 < needed["gem", layout] / needed["seqft", layout] < 1.15


@pytest.mark.parametrize("free", [4, 5, 6.5, 8, 9, 11, 14])
def test_what_is_named_makes_room(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    for overrides in (("strategy=gem",), ("strategy=lora_seqft",), ("strategy=replay", "engine=torch")):
        said = settled(monkeypatch, free, *overrides)
        if " needs " not in said:
            continue
        named = re.search(r": set (.+?)(?:, on (\d+) such devices)?$", said)
        if named is None:
            assert said.endswith("no setting makes room; take a smaller model, or devices with more memory")
            continue
        here = [word for word in overrides if "engine=" not in word or "engine=" not in named[1]]
        ranks = int(named[2] or 1)
        assert " needs " not in settled(monkeypatch, free, *here, *named[1].split(), ranks=ranks), (free, said)


def test_answering_alone_may_be_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """LoRA trains in little; 131 rows of 250 tokens are answered at once."""
    _, memory = needs_of("strategy=lora_seqft").hardest(Layout(), FreeMemory(1, 1))
    assert memory.scoring_cache == 2 * 12 * 2048 * 2 * 131 * (250 + DRAFT)
    refused = settled(monkeypatch, 6, "strategy=lora_seqft")
    assert "scoring cache" in refused
    assert refused.endswith("set evaluation.tokens_per_batch=16384")


def test_a_model_too_large_for_one_device_is_offloaded_where_main_memory_has_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert settled(monkeypatch, 9) == "deepspeed offloaded"
    assert "needs" in settled(monkeypatch, 9, main=5)
    assert settled(monkeypatch, 9, "engine=deepspeed", "engine.offload_optimizer=true") == "deepspeed offloaded"
    refused = settled(monkeypatch, 9, "engine=deepspeed", "engine.offload_optimizer=true", main=5)
    assert "of main memory for each process" in refused


AUTO = ("training.tokens_per_batch=auto", "engine.gradient_checkpointing=auto", "evaluation.tokens_per_batch=auto")
ALL = dict.fromkeys((RECOMPUTED, TOKENS, ANSWERED))


def decided(free: float, *overrides: str, ranks: int = 1, before: dict[str, Any] | None = None) -> list[Any]:
    """What the three settings come to where so many GiB are free on each GPU."""
    room = FreeMemory(int(free * GIB), 999 * GIB)
    return list((ALL | fastest(needs_of(*(overrides or AUTO)), ranks, room, before or {})[1]).values())


def test_where_there_is_plenty_of_room_nothing_is_computed_twice() -> None:
    assert decided(999) == [False, 16384, 131072]
    assert decided(999, *AUTO[1:]) == [False, None, 131072], "what is not asked for stays as it is set"
    assert decided(999, "training.tokens_per_batch=8192") == [None] * 3
    assert decided(999, before={TOKENS: 512, RECOMPUTED: True, ANSWERED: 4096}) == [True, 512, 4096]
    assert decided(1, "strategy=p_tuning", *AUTO)[:2] == [False, 4096], "which cannot compute a layer twice"


def test_the_fastest_that_fits_is_chosen() -> None:
    """With a little more memory than some settings need these are chosen, and with a little less the next ones."""

    needs = needs_of(*AUTO)

    def needed(tokens: int, twice: bool, part: str) -> float:
        under = needs.under({TOKENS: tokens, ANSWERED: tokens})
        memory = under.hardest(Layout(gradient_checkpointing=twice), FreeMemory(1, 1))[1]
        scoring = memory.context + memory.answering + memory.scoring_cache
        return (memory.training if part == "training" else scoring) / GIB

    def decided(free: float) -> list[Any]:
        return list(fastest(needs, 1, FreeMemory(int(free * GIB), 999 * GIB), {})[1].values())

    kept, twice = needed(4096, False, "training"), needed(16384, True, "training")
    assert decided(kept + 0.01)[:2] == [False, 4096]
    assert decided(kept - 0.01)[:2] == [True, 16384]
    assert decided(twice - 0.01)[:2] == [True, 8192]
    asked = needed(32768, True, "scoring")
    assert decided(asked + 0.01)[2] == 32768
    assert decided(asked - 0.01)[2] == 16384
    assert decided(1) == [True, 1024, 2048], "what needs least, which is then refused"


def test_a_run_that_chooses_computes_what_it_did(run: Callable[..., Path], tmp_path: Path) -> None:
    """On a CPU it chooses what is set where nobody chooses; and it writes down what."""
    folder = run(*AUTO)
    written = dict(flatten(read_yaml(folder / "config.yaml")))
    assert {key: written[key] for key in ALL} == {RECOMPUTED: False, TOKENS: 8192, ANSWERED: 32768}
    assert results(folder) == results(run(f"runs_dir={tmp_path / 'plain'}"))


def test_a_run_goes_on_with_what_was_chosen(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "finish_round", killed_after(Journal.finish_round))
        with pytest.raises(Killed):
            run("training.tokens_per_batch=100")
    run(*AUTO)
    assert "training.tokens_per_batch=100 (auto)" in capsys.readouterr().err.splitlines()


def test_every_phase_counts() -> None:
    """What is replayed may be longer than the task itself, and a later task longer than the first."""
    needs = needs_of("strategy=replay", "training.tokens_per_batch=250")
    before = needs.hardest(Layout(), None)[1].activations
    longer = replace(needs.benchmark, instructions=[Example([1] * 1000, [2] * 50)] * 20)
    assert (
        replace(needs, benchmark=longer, counted={}, answers={}).hardest(Layout(), None)[1].activations > 1.5 * before
    )
    *first, last = needs.benchmark.tasks
    longer = replace(needs.benchmark, tasks=[*first, replace(last, train=[Example([1] * 1000, [2] * 50)] * 20)])
    assert (
        replace(needs, benchmark=longer, counted={}, answers={}).hardest(Layout(), None)[1].activations > 1.5 * before
    )


def test_a_run_without_room_is_refused_before_anything_is_written(
    run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trace_cl.needs.measure", lambda device, ranks: FreeMemory(None, 2**19))
    with pytest.raises(UserError, match=r"needs \d MiB of main memory for each process in round 1, the hardest"):
        run()
    assert not list(tmp_path.glob("runs/**/train.jsonl"))
