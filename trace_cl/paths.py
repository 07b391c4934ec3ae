"""Names that become folders and files of a run: they come from users, and must not lead elsewhere."""

from collections.abc import Sequence

from trace_cl.errors import UserError

LONGEST = 100
"""Bytes of a name: with what is added to it, a file's name still fits every file system."""

RESERVED = ("published", "report.html")
"""What else lies among the benchmarks in `runs/`: the paper's matrices, and the page of all runs."""


def check_name(key: str, name: str) -> None:
    """Raise UserError, naming the key, for a name that no folder can have or that would lead out of its own."""
    if not name.strip() or name.startswith(".") or set(name) & set("/\\") or not name.isprintable():
        raise UserError(
            f"{key}={name!r} cannot name a folder: give it a name without slashes and control characters that does not "
            "begin with a dot"
        )
    if len(name.encode()) > LONGEST:
        raise UserError(f"{key}={name[:20]}… cannot name a folder: give it a name of at most {LONGEST} bytes")


def check_benchmark(name: str) -> None:
    """Raise UserError for a benchmark's name that cannot be the folder of its runs."""
    check_name("benchmark.name", name)
    if name.casefold() in RESERVED:
        raise UserError(f"benchmark.name={name}: something else lies there among the runs, so give it another name")


def check_tasks(names: Sequence[str]) -> None:
    """Raise UserError for a task that cannot be a column of matrix.csv and a file of its own."""
    seen: dict[str, str] = {}
    for name in names:
        check_name("benchmark.order", name)
        if name == "round" or set(name) & set(',"'):
            raise UserError(
                f"benchmark.order: a task named {name} cannot be a column of matrix.csv, whose first is round; give it "
                "another name, without commas and quotes"
            )
        if (other := seen.setdefault(name.casefold(), name)) != name:
            raise UserError(
                f"benchmark.order: {other} and {name} would share a file where capitals do not count; rename one"
            )
