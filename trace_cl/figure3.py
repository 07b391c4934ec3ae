"""OP and BWT by the share that learns: `python -m trace_cl.figure3`."""

from trace_cl.analysis.figure3 import main
from trace_cl.doors import leave

if __name__ == "__main__":
    leave(main)
