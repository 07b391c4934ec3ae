"""trace-cl: a language model learns eight tasks one after another, and what it forgets on the way is measured.

Read in this order: `__main__` (the command), `config` (what can be chosen), `run` (the life of a run); from there
`data`, `model`, `batches`, `engine`, `evaluation` and `journal` each explain one part of it.
"""
