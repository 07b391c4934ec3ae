"""OP and BWT of the finished runs: `python -m trace_cl.results`."""

from trace_cl.analysis.summary import main
from trace_cl.doors import leave

if __name__ == "__main__":
    leave(main)
