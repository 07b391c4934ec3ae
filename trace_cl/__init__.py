"""trace-cl: a language model learns eight tasks one after another, and what it forgets on the way is measured.

Read in this order: `__main__` (the command), `config` (what can be chosen), `build` (values become things), `run` (the
life of a run); from there the rooms `data`, `training`, `records` and `analysis` each explain one part of it.
"""

import logging

# Where bitsandbytes is installed transformers and peft import it, and it misses a faster kernel for some CPUs.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
