"""`python -m trace_cl.tiny --folder DIR [--steps N]` makes the tiny model anew (half an hour at most)."""

import argparse
from pathlib import Path

from trace_cl.tiny import CHECKPOINT

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m trace_cl.tiny", description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--folder", type=Path, help="where the checkpoint goes")
    where.add_argument("--overwrite", action="store_true", help=f"write over the one that ships ({CHECKPOINT})")
    parser.add_argument("--steps", type=int, default=9_500, help="batches of 8 blocks of 128 tokens")
    arguments = parser.parse_args()

    from trace_cl.tiny.pretrain import pretrain

    pretrain(CHECKPOINT if arguments.overwrite else arguments.folder, arguments.steps)
