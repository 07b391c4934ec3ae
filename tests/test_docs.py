"""What the README and the site say: commands that exist, links that lead somewhere, every key, none made up."""

import re
import shlex
from dataclasses import fields
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from support import compose

from trace_cl.config import CONF_DIR, EditionConfig, TaskConfig, as_dict
from trace_cl.records.files import flatten

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
MIXED = (
    *("benchmark.edition", "benchmark.order", "engine.processes", "dry_run"),
    *("training.tokens_per_batch", "engine.gradient_checkpointing", "evaluation.tokens_per_batch"),
)
"""The keys that take words and numbers both."""
NESTED = ("strategy.", "logger.", "benchmark.orders.", "benchmark.tasks.", "benchmark.editions")
"""Keys below a name that is anybody's."""
TARGETS = set(re.findall(r"^([a-z][a-z0-9_-]*):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = spec_from_file_location("hooks", REPOSITORY / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands(page: Path) -> list[list[str]]:
    """The commands of a page's console blocks, continuation lines joined, comments left out."""
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text().replace("\\\n", " "), re.MULTILINE | re.DOTALL)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line, comments=True) for line in lines]


def keys(page: str) -> dict[str, list[str]]:
    """The rows of generated tables, by key: type, default and meaning, as far as they have these columns."""
    rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in page.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): [cell.strip("`") for cell in row[1:]] for row in rows}


def test_the_readme_can_be_read_in_one_go() -> None:
    assert len(PAGES[0].read_text().splitlines()) <= 100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    for words in commands(page):
        if words[0] == "make":
            [target, *_] = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
            assert target in TARGETS or re.fullmatch(r"table([3457]|12|2[4-9]|3\d|4[0-2])", target), words
        if "-m" in words and words[words.index("-m") + 1].startswith("trace_cl"):
            module, *arguments = words[words.index("-m") + 1 :]
            assert find_spec(module if module != "trace_cl" else "trace_cl.__main__"), words
            if module == "trace_cl" and "--config-dir" not in words:
                settings = [word for word in arguments if "=" in word and not word.startswith(("hydra", "$", "."))]
                # A sweep's lists, and what only a user can fill in, are not composed.
                compose(*(word for word in settings if not re.search(r",(?![^\[{]*[\]}])|DIR|NAME|…", word)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_every_key_is_listed_with_its_type_its_default_and_its_meaning(hooks: ModuleType) -> None:
    listed = keys(hooks.on_page_markdown("{{ keys }}"))
    offered = dict(flatten(as_dict(compose())))
    for key, value in offered.items():
        if not key.startswith(NESTED):
            kind, default, meaning = listed.pop(key)
            assert meaning, f"{key} does not say what it means"
            if isinstance(value, str | bool | int) and "$" not in default:
                assert default == (str(value).lower() if isinstance(value, bool) else str(value)), key
            assert kind or key in MIXED, key
    assert listed.pop("benchmark.orders")
    parts = {"tasks.TASK": TaskConfig, "editions.EDITION": EditionConfig}
    assert listed.keys() == {f"benchmark.{part}.{key.name}" for part, of in parts.items() for key in fields(of)}
    assert all(meaning for *_, meaning in listed.values())


def test_every_setting_of_a_strategy_is_explained(hooks: ModuleType) -> None:
    page = hooks.on_page_markdown("{{ strategies }}")
    for name in (file.stem for file in (CONF_DIR / "strategy").glob("*.yaml")):
        [section] = re.findall(rf"^### `strategy={name}`\n(.*?)(?=^### |\Z)", page, re.MULTILINE | re.DOTALL)
        listed = keys(section)
        assert listed.keys() == {f"strategy.{key}" for key in as_dict(compose(f"strategy={name}"))["strategy"]} - {
            "strategy._target_"
        }
        prose = section.partition("| key |")[0]
        for key, cells in listed.items():
            assert cells[2:] or f"`{key.removeprefix('strategy.')}" in prose, f"{key} of {name} is not explained"
