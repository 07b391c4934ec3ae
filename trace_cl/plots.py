"""Pictures for print: `python -m trace_cl.plots heatmap|curves|op_bwt [RUN …]`."""

import sys

from trace_cl.analysis.plots import main

if __name__ == "__main__":
    sys.exit(main())
