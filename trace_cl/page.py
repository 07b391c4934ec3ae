"""All runs on one page: `python -m trace_cl.page`."""

from trace_cl.analysis.page import main
from trace_cl.doors import leave

if __name__ == "__main__":
    leave(main)
