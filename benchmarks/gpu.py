"""What a GPU comes to, in one unattended run of under nine minutes: make bench-gpu, or where there is no .venv

    PYTHONPATH=. python3 benchmarks/gpu.py [--out DIR] [--parts full,hft] [benchmark.root=DIR …]

Llama-2-7B's architecture with random weights learns real TRACE prompts of all tasks, mixed, by each method, and answers
them; a run of Llama-3.2-1B's is killed and goes on; what batches and dtypes may not change is compared. The data is
$TRACE_ROOT or benchmark.root. BENCH_SCALE=small measures all of it with a million parameters, so that it is known to
work where there is no GPU.

Each part is a process of its own with a budget: one that fails, runs out of memory or time is a row of the table, and
the others go on. DIR (runs/bench-gpu) has gpu.jsonl, a line a figure as it comes, and after each part gpu.json and
gpu.md; what a part has printed is in DIR/<part>.log. DeepSpeed is not needed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from time import perf_counter, time

import pandas as pd
import torch
from gpu_bench import LARGE, SMALL, Bench, Part, Row, RowFile

from trace_cl.analysis.text import markdown
from trace_cl.errors import UserError

SCALES = {"large": LARGE, "small": SMALL}

BUDGETS = {
    "large": {
        "machine": 30,
        "full": 60,
        "hft": 45,
        "lora": 40,
        "gem": 75,
        "scoring": 115,
        "resume": 115,
        "invariances": 45,
    },
    "small": {
        "machine": 30,
        "full": 60,
        "hft": 60,
        "lora": 60,
        "gem": 60,
        "scoring": 60,
        "resume": 180,
        "invariances": 90,
    },
}
"""Seconds that a part has at most, in the order in which they come."""

FAILED = "failed"
"""The quantity of a row that says why a part was not measured to its end."""

MODULES = ("gpu_training", "gpu_answers", "gpu_resume")


def parts() -> dict[str, Part]:
    """What each part does; to know it takes all that is measured, which only the processes of the parts import."""
    return {name: part for module in MODULES for name, part in import_module(module).PARTS.items()}


def do(bench: Bench) -> int:
    """Do a part in this process; gives the exit code."""
    try:
        parts()[bench.part](bench)
    except Exception as error:
        traceback.print_exc()
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        bench.tell(bench.part, FAILED, None, " ".join(said.split()))
        return 1
    return 0


def do_in_a_process(part: str, seconds: float, scale: str, folder: Path, overrides: Sequence[str]) -> str | None:
    """Do a part in a process of its own, which is ended when its time is up; why it has not come to its end."""
    until = str(time() + 0.9 * seconds)
    command = [sys.executable, __file__, "--part", part, "--out", str(folder), "--until", until, *overrides]
    log = folder / f"{part}.log"
    with log.open("w") as said:
        process = subprocess.Popen(
            command,
            env=os.environ | {"BENCH_SCALE": scale},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"its {seconds:.0f} seconds were up"
        finally:
            end(process)
    return f"it ended with {code}: {log} has what it said last" if code else None


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a part, and the runs that it may have started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def write(rows: Sequence[Row], folder: Path, about: Mapping[str, object]) -> str:
    """Write all figures as JSON and as a table, which is also given."""
    whole = {**about, "rows": [asdict(row) for row in rows]}
    (folder / "gpu.json").write_text(json.dumps(whole, ensure_ascii=False, indent=1) + "\n")
    lines = [{**asdict(row), "value": "–" if row.value is None else f"{row.value:.4g}"} for row in rows]
    table = markdown(pd.DataFrame(lines).set_index("part")) + "\n" if lines else ""
    (folder / "gpu.md").write_text(table)
    return table


def main() -> int:
    """Do every part, and print the table; 1 if one has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-gpu"), metavar="DIR")
    parser.add_argument("--parts", help="some of them, as full,hft")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    given = parser.parse_args()
    scale = os.environ.get("BENCH_SCALE", "large")
    if scale not in SCALES:
        print(f"error: BENCH_SCALE={scale} is neither {' nor '.join(SCALES)}", file=sys.stderr)
        return 2
    if scale == "large" and not torch.cuda.is_available():
        print(
            "error: PyTorch finds no GPU on this machine: set BENCH_SCALE=small to measure on its CPU", file=sys.stderr
        )
        return 2
    wanted = given.parts.split(",") if given.parts else list(BUDGETS[scale])
    if unknown := [part for part in wanted if part not in BUDGETS[scale]]:
        print(f"error: --parts {unknown[0]} is none of {', '.join(BUDGETS[scale])}", file=sys.stderr)
        return 2
    rows = RowFile(given.out / "gpu.jsonl")
    if given.part:
        return do(Bench(given.part, SCALES[scale], rows, given.overrides, given.until))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # by which a part is ended too
    given.out.mkdir(parents=True, exist_ok=True)
    rows.file.unlink(missing_ok=True)
    about: dict[str, object] = {"scale": scale, "overrides": given.overrides}
    table = ""
    for part in wanted:
        began = perf_counter()
        failure = do_in_a_process(part, BUDGETS[scale][part], scale, given.out, given.overrides)
        if failure and not any(row.part == part and row.quantity == FAILED for row in rows.read()):
            rows.add(Row(part, part, FAILED, None, failure))
        print(f"{part}: {perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        table = write(rows.read(), given.out, about)
    print(table)
    return int(any(row.quantity == FAILED for row in rows.read()))


if __name__ == "__main__":
    sys.exit(main())
