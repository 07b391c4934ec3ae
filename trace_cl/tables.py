"""The paper's tables from runs: `python -m trace_cl.tables N`."""

from trace_cl.analysis.tables import main
from trace_cl.doors import leave

if __name__ == "__main__":
    leave(main)
