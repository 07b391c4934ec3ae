"""The rooms stand on each other in one direction, and the ground floor knows nothing of the house."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "trace_cl"

FLOORS = (
    ("errors", "doors", "draw", "signals", "metrics", "strategies"),
    ("names", "paths", "tiny", "harness"),
    ("records",),
    ("config",),
    ("choices", "build"),
    ("identity",),
    ("data",),
    ("training",),
    ("decoding",),
    ("speculative",),
    ("lockstep",),
    ("evaluation", "plan", "analysis"),
    ("likelihood", "needs"),
    ("dry_run",),
    ("rounds", "restored"),
    ("calibrate",),
    ("run", "tables", "compare", "plots", "page", "results", "figure3", "diagnose", "reset", "variation", "abilities"),
    ("launch",),
    ("command",),
    ("__main__",),
)
"""Each imports from floors below its own alone."""


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name; what a checkout links into it too."""
    folders = [PACKAGE, *(PACKAGE / name for name in ("metrics", "strategies"))]
    files = sorted({file for folder in folders for file in folder.rglob("*.py")})
    return {".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts): file for file in files}


def imports() -> dict[str, set[str]]:
    """What each module imports of the others, also inside its functions."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, file in known.items():
        found[name] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                base = ".".join([*name.split(".")[: -node.level], *filter(None, [node.module])])
                targets = [f"{base if node.level else node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                continue
            for target in targets:
                for candidate in (target, f"{target}.__init__", target.rpartition(".")[0]):
                    if candidate in known and candidate != name:
                        found[name].add(candidate)
                        break
    return found


def room(module: str) -> str:
    return module.split(".")[1]


def test_there_is_no_circle() -> None:
    order = list(TopologicalSorter(imports()).static_order())
    assert len(order) == len(modules()) > 80


def test_every_room_stands_on_lower_floors_alone() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    upwards = {
        f"{module} imports {target}"
        for module, targets in imports().items()
        for target in targets
        if room(module) != room(target) and room(target) != "__init__" and floor[room(target)] >= floor[room(module)]
    }
    assert not upwards
