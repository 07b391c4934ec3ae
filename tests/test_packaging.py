"""What is installed: the wheel in dist/ (`make package` puts it there), in an environment and a folder of its own."""

import email
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.package

REPOSITORY = Path(__file__).resolve().parents[1]
QUICK = ("benchmark.order=[FOMC,C-STANCE]", "benchmark.max_train=8", "benchmark.max_test=4")


@pytest.fixture(scope="module")
def wheel() -> Path:
    [wheel] = (REPOSITORY / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a new environment that holds the wheel; what it depends on is lent by the one the tests run in.

    Lent is the folder: path files in it are not read, so that no editable install of ours comes with it.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
    Path(packages, "lent.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


@pytest.fixture
def students(tmp_path: Path) -> Path:
    """A folder that holds nothing but packages by the names of ours."""
    for name in ("metrics", "strategies", "conf"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('the {name} of a student')\n")
    return tmp_path


def run(command: Path, *arguments: str, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "TRACE_ROOT")}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        [command, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def tracked(*folders: str) -> set[str]:
    """The files of these folders that git knows; a link is followed to what it holds."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", *folders], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return {name for name in listed.stdout.split("\0") if name and not (REPOSITORY / name).is_symlink()}


def test_the_wheel_holds_all_of_the_project_under_one_name(wheel: Path) -> None:
    expected = tracked("trace_cl")
    for folder, inside in {
        "metrics": "metrics",
        "strategies": "strategies",
        "conf": "conf",
        "runs/published": "published",
    }.items():
        expected |= {f"trace_cl/{inside}{name.removeprefix(folder)}" for name in tracked(folder)}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected


def test_a_wheel_made_from_the_checkout_is_the_one_made_from_the_sdist(wheel: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, REPOSITORY], check=True, capture_output=True
    )
    [direct] = tmp_path.glob("*.whl")
    ours, theirs = zipfile.ZipFile(wheel), zipfile.ZipFile(direct)
    assert sorted(ours.namelist()) == sorted(theirs.namelist())
    for name in ours.namelist():
        if not name.endswith("/RECORD"):
            assert ours.read(name) == theirs.read(name), name


def test_the_sdist_holds_what_the_project_is_worked_on_with(wheel: Path) -> None:
    [sdist] = wheel.parent.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    ours = tracked("tests", "docs", "examples", "benchmarks", ".ci", ".github")
    assert ours | {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "Makefile", "constraints.txt"} <= held


def test_the_metadata_is_complete_and_its_links_lead_somewhere(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(archive.read(name))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert name.replace("METADATA", "licenses/LICENSE") in archive.namelist()
    for key in ("Author", "Summary", "Keywords", "Project-URL", "Classifier", "Requires-Python"):
        assert metadata[key], key
    description = archive.read(name).decode().partition("\n\n")[2]
    assert description.startswith("# trace-cl\n")
    links = re.findall(r"\]\(([^)]*)\)", description)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []


def test_a_run_in_a_folder_of_ones_own(installed: Path, students: Path) -> None:
    where = run(installed / "python", "-c", "import trace_cl; print(trace_cl.__file__)", cwd=students).strip()
    assert Path(where).is_relative_to(installed.parent)
    run(installed / "python", "-m", "trace_cl", *QUICK, cwd=students)
    [path] = (students / "runs" / "embedded" / "tiny").glob("seqft-*/seed1/matrix.csv")
    matrix = path.read_text().splitlines()
    assert [line.partition(",")[0] for line in matrix] == ["round", "1", "2"]
    assert "is complete" in run(installed / "trace-cl", *QUICK, cwd=students)


def test_the_published_runs_come_with_it(installed: Path, students: Path) -> None:
    assert "51.3" in run(installed / "python", "-m", "trace_cl.tables", "30", "--published", cwd=students)
    run(installed / "python", "-m", "trace_cl.plots", "op_bwt", "--published", cwd=students)
    [_] = (students / "plots").glob("op_bwt*")


def test_in_a_checkout_they_have_short_names_too() -> None:
    code = "import metrics, strategies.gem; print(metrics.__file__, strategies.gem.__file__)"
    metrics, gem = run(Path(sys.executable), "-c", code, cwd=REPOSITORY).split()
    assert [Path(metrics), Path(gem)] == [REPOSITORY / "metrics" / "__init__.py", REPOSITORY / "strategies" / "gem.py"]
