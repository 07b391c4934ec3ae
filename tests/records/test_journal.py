"""What lies in a run's directory is compared with what is asked for, also where an earlier version wrote it."""

from pathlib import Path

import pytest
from support import compose

from trace_cl.build import defaults
from trace_cl.config import as_dict
from trace_cl.data.benchmark import checksums, combined_checksum, load_data
from trace_cl.errors import UserError
from trace_cl.records.files import flatten, read_yaml
from trace_cl.records.journal import Journal

OLD_EMBEDDED = "38b4ac634656954ddcdd9a47d02df3a272415d19ab77f2fc9723ed270269e024"
"""What commit 890c1d7 wrote of the embedded benchmark."""


def begun(folder: Path, *overrides: str) -> Journal:
    journal = Journal(folder, ["A", "B"])
    journal.begin(as_dict(compose(*overrides)), {"A": "1" * 64, "B": "2" * 64}, {})
    return journal


def test_a_run_of_another_configuration_is_refused_key_by_key(tmp_path: Path) -> None:
    config = compose("seed=2", "training.eps=1e-6", "runs_dir=elsewhere")
    with pytest.raises(UserError) as refused:
        begun(tmp_path).check(as_dict(config), defaults(config))
    assert "another configuration: seed (1 there, 2 here); training.eps (1e-08 there, 1e-06 here). Set" in str(
        refused.value
    )


def test_a_key_that_an_old_run_lacks_is_its_default(tmp_path: Path) -> None:
    journal = begun(tmp_path, "strategy=gem")
    path = tmp_path / "config.yaml"
    kept = [line for line in path.read_text().splitlines() if line.strip().partition(":")[0] not in ("eps", "margin")]
    assert len(kept) == len(path.read_text().splitlines()) - 3, "strategy.eps, strategy.margin and training.eps"
    path.write_text("\n".join(kept).replace("trace_cl.strategies.gem.GEM", "strategies.gem.GEM") + "\n")
    assert read_yaml(path)["strategy"]["_target_"] == "strategies.gem.GEM"

    same = compose("strategy=gem")
    journal.check(as_dict(same), defaults(same))
    for override, sentence in (
        ("training.eps=1e-6", r"training.eps \(1e-08 there, 1e-06 here\)"),
        ("strategy.margin=1", r"strategy.margin \(0.5 there, 1 here\)"),
    ):
        other = compose("strategy=gem", override)
        with pytest.raises(UserError, match=sentence):
            journal.check(as_dict(other), defaults(other))


def test_classes_go_by_the_names_they_have_today() -> None:
    old = {"strategy": {"_target_": "strategies.gem.GEM"}, "logger": {"_target_": "trace_cl.loggers.NoLogger"}}
    assert dict(flatten(old)) == {
        "strategy._target_": "trace_cl.strategies.gem.GEM",
        "logger._target_": "trace_cl.records.loggers.NoLogger",
    }
    mine = {"strategy": {"_target_": "strategies.mine.Mine"}}
    assert dict(flatten(mine)) == {"strategy._target_": "strategies.mine.Mine"}


def test_other_examples_are_refused(tmp_path: Path) -> None:
    journal = begun(tmp_path)

    def unasked() -> str:
        raise AssertionError("the run holds a checksum for each name")

    journal.check_data({"A": "1" * 64, "B": "2" * 64}, unasked)
    with pytest.raises(UserError, match=r"other data \(see data.sha256\)"):
        journal.check_data({"A": "1" * 64, "B": "3" * 64}, unasked)


def test_the_one_checksum_of_an_old_run_holds_and_gives_way(tmp_path: Path) -> None:
    """Earlier versions summed up tasks and instruction set, whether or not the method learned from the latter."""
    config = compose().benchmark
    journal, path = begun(tmp_path), tmp_path / "data.sha256"
    path.write_text(OLD_EMBEDDED + "\n")
    journal.check_data(checksums(load_data(config, instructions=False)), lambda: combined_checksum(config))
    path.write_text("0" * 64 + "\n")
    with pytest.raises(UserError, match="other data"):
        journal.check_data({}, lambda: combined_checksum(config))


def test_a_class_that_is_no_name_is_another_configuration(tmp_path: Path) -> None:
    journal, config = begun(tmp_path), compose()
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text().replace("_target_: trace_cl.strategies.seqft.SeqFT", "_target_: 900"))
    with pytest.raises(UserError, match=r"strategy._target_ \(900 there"):
        journal.check(as_dict(config), defaults(config))
