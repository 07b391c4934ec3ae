"""OP and BWT of the finished runs: `python -m trace_cl.results`."""

import sys

from trace_cl.analysis.summary import main

if __name__ == "__main__":
    sys.exit(main())
