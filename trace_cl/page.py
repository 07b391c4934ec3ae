"""All runs on one page: `python -m trace_cl.page`."""

import sys

from trace_cl.analysis.page import main

if __name__ == "__main__":
    sys.exit(main())
