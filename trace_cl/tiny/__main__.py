"""`python -m trace_cl.tiny [--folder DIR] [--steps N]` makes the tiny model anew (half an hour at most)."""

import argparse
from pathlib import Path

from trace_cl.tiny import CHECKPOINT
from trace_cl.tiny.pretrain import pretrain

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m trace_cl.tiny", description=__doc__)
    parser.add_argument("--folder", type=Path, default=CHECKPOINT, help="where the checkpoint goes")
    parser.add_argument("--steps", type=int, default=9_500, help="batches of 8 blocks of 128 tokens")
    arguments = parser.parse_args()
    pretrain(arguments.folder, arguments.steps)
