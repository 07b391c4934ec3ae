"""Pictures for print: `python -m trace_cl.plots heatmap|curves|op_bwt [RUN …]`."""

from trace_cl.analysis.plots import main
from trace_cl.doors import leave

if __name__ == "__main__":
    leave(main)
