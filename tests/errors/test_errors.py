"""Whatever is wrong: exit code 2, one sentence on stderr, no traceback, nothing trained, as docs/errors.md says it."""

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from errors.case import Case
from errors.cases import SECTIONS
from errors.page import PAGE, render
from errors.place import Place
from support import Killed

from trace_cl.__main__ import main
from trace_cl.run import Run
from trace_cl.strategies.base import Round

CASES = [
    pytest.param(case, id=f"{name}: {case.what or case.arguments}") for name in SECTIONS for case in SECTIONS[name]
]


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory, small_model: Path, small_root: Path) -> Path:
    """The runs of one that was interrupted in its second round."""
    runs = tmp_path_factory.mktemp("begun")
    train = Run.train

    def train_once(run: Run, round: Round) -> None:
        if round.past:
            raise Killed
        train(run, round)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "train", train_once)
        assert command(patch, Place(small_model, small_root, runs, patch).arguments) == 1
    return runs


@pytest.fixture
def place(tmp_path: Path, small_model: Path, small_root: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, whole in (("model", small_model), ("root", small_root)):
        shutil.copytree(whole, tmp_path / name)
    (tmp_path / "runs").mkdir()
    return Place(tmp_path / "model", tmp_path / "root", tmp_path / "runs", monkeypatch)


def command(patch: pytest.MonkeyPatch, arguments: Sequence[str]) -> int:
    """The exit code of the command, started in this process."""
    patch.setattr(sys, "argv", ["trace-cl", *arguments])
    try:
        return main()
    except SystemExit as ended:
        return int(ended.code or 0)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said_in_one_sentence(
    case: Case, place: Place, small_model: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    place.gpus(0)
    if case.begun:
        place.model = small_model  # a run goes on with the model that it began with
        shutil.copytree(request.getfixturevalue("begun"), place.runs, dirs_exist_ok=True)
    if case.spoil:
        case.spoil(place)
    capsys.readouterr()
    folders = {"model": place.model, "root": place.root, "runs": place.runs}
    extra = [
        word.format(**folders) if "_dir=" in word or "path=" in word else word for word in shlex.split(case.arguments)
    ]
    before = contents(place.runs)
    place.patch.setattr(Run, "train", lambda *_: pytest.fail("it trains"))
    code = command(place.patch, sorted([*place.arguments, *extra], key=lambda word: not word.startswith("-")))
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("data: ")]
    assert [place.told(line) for line in said] == [f"error: {case.sentence}"]
    assert code == 2
    assert contents(place.runs) == before


def test_the_page_is_that_of_the_cases() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "PYTHONPATH=tests python -m errors.page writes it anew"
    assert len({str(parameter.id) for parameter in CASES}) == len(CASES) >= 80
