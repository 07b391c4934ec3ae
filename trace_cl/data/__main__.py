"""`python -m trace_cl.data ROOT` checks a benchmark's files."""

import sys

from trace_cl.data.checks import main

sys.exit(main())
