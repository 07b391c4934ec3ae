"""Check a benchmark's data and show what is in it: every row, every split, leaks and repeats, small test sets.

python -m trace_cl.data benchmark=embedded
python -m trace_cl.data DIR                                  TRACE's files, in DIR
python -m trace_cl.data --config-dir conf benchmark=mine     one of your own
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer

from trace_cl.choices import compose
from trace_cl.config import check
from trace_cl.data.benchmark import load_data, published
from trace_cl.data.checks import coarseness, findings, summarize
from trace_cl.doors import leave
from trace_cl.errors import UserError
from trace_cl.tiny import CHECKPOINT


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m trace_cl.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-dir", type=Path, help="a folder with groups of your own, as for trace-cl")
    parser.add_argument("settings", nargs="*", metavar="DIR | key=value", help="TRACE's folder, or settings of a run")
    given = parser.parse_args(arguments)
    folders = [word for word in given.settings if "=" not in word]
    overrides = [word for word in given.settings if "=" in word]
    if folders:
        chosen = [] if any(word.startswith("benchmark=") for word in overrides) else ["benchmark=trace"]
        overrides += [*chosen, f"benchmark.root='{folders[-1]}'"]
    try:
        config = compose(overrides, given.config_dir)
        check(config)
        tasks = list(load_data(config.benchmark, instructions=True).values())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    table = summarize(tasks, lambda text: len(tokenizer(text, add_special_tokens=False).input_ids))
    print(table.to_string(index=False))
    print("\n(token lengths: median / longest, with the tiny model's tokenizer)")
    split = config.evaluation.split
    for task in tasks:
        for finding in findings(task, published(config.benchmark, task.name), split):
            print(f"{task.name}: {finding}")
    for task in tasks:
        if coarse := coarseness(task, split):
            print(f"{task.name}: {coarse}")
    return 0


if __name__ == "__main__":
    leave(main)
