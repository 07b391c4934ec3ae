"""The paper's tables from runs: `python -m trace_cl.tables N`."""

import sys

from trace_cl.analysis.tables import main

if __name__ == "__main__":
    sys.exit(main())
