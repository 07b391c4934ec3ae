"""What the end-to-end tests run: a model of a few thousand parameters on a benchmark of a few rows.

What takes long to import is imported by the fixtures that use it: who hands the tests to the workers needs none of it.
"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import TASKS, compose, no_pictures

from trace_cl.analysis import report
from trace_cl.tiny import CHECKPOINT

DRAWN = report.pictures


@pytest.fixture(scope="session", autouse=True)
def undrawn() -> Iterator[None]:
    """A run leaves no pictures but where a test asks for them (`drawn`)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "pictures", no_pictures)
        yield


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run draws its pictures, as anybody's does."""
    monkeypatch.setattr(report, "pictures", DRAWN)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 53,000 parameters, most of them embeddings, with the shipped tokenizer, in Hugging Face layout."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from trace_cl.training.model import load_tokenizer

    tokenizer = load_tokenizer(str(CHECKPOINT))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    folder = tmp_path_factory.mktemp("small_model")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in TRACE's layout: its eight tasks and Lima, a dozen rows each."""
    root = tmp_path_factory.mktemp("small_root")
    draw = random.Random(0)
    for task in (*compose().benchmark.order, "Lima"):
        (root / task).mkdir()
        for split, rows in (("train", 12), ("eval", 3), ("test", 4)):
            examples = [
                {"prompt": f"{task} {split} {row}: {'la ' * draw.randrange(1, 9)}?", "answer": draw.choice("ABC")}
                for row in range(rows)
            ]
            (root / task / f"{split}.json").write_text(json.dumps(examples))
    return root


@pytest.fixture
def run(tmp_path: Path, small_model: Path, small_root: Path) -> Callable[..., Path]:
    """Start a run of the small model on the small benchmark; gives its directory, whose method begins with `method`."""
    from trace_cl.build import build_strategy
    from trace_cl.identity import run_folder
    from trace_cl.run import start

    def start_run(*overrides: str, method: str = "") -> Path:
        config = compose(
            "benchmark=trace",
            f"benchmark.root={small_root}",
            f"benchmark.order=[{','.join(TASKS)}]",
            "benchmark.tasks={MeetingBank:{epochs:2,answer_tokens:6}}",
            f"model.path={small_model}",
            "training.global_batch=5",
            "training.learning_rate=0.01",
            f"runs_dir={tmp_path / 'runs'}",
            *overrides,
        )
        start(config)
        folder = run_folder(config, build_strategy(config).name)
        assert folder.parent.name.startswith(method)
        return folder

    return start_run
