"""Runs side by side: `python -m trace_cl.compare RUN RUN …`."""

import sys

from trace_cl.analysis.compare import main

if __name__ == "__main__":
    sys.exit(main())
