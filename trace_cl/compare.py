"""Runs side by side: `python -m trace_cl.compare RUN RUN …`."""

from trace_cl.analysis.compare import main
from trace_cl.doors import leave

if __name__ == "__main__":
    leave(main)
