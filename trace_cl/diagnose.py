"""Why scores fell: `python -m trace_cl.diagnose RUN`."""

from trace_cl.analysis.diagnose import main
from trace_cl.doors import leave

if __name__ == "__main__":
    leave(main)
