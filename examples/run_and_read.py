"""A run from Python, and what is read out of it: python examples/run_and_read.py [KEY=VALUE …]

The settings are those of the command line.
"""

import sys

from trace_cl import metrics
from trace_cl.build import build_strategy
from trace_cl.choices import compose
from trace_cl.identity import run_folder
from trace_cl.records.files import read_matrix
from trace_cl.run import start

QUICK = ["benchmark.order=[FOMC,NumGLUE-cm]", "benchmark.max_train=64", "benchmark.max_test=10"]

config = compose([*QUICK, "strategy=gem", "hft=true", *sys.argv[1:]])
start(config)

matrix = read_matrix(run_folder(config, build_strategy(config).name) / "matrix.csv")
S = matrix.to_numpy()
print(f"what is left of {matrix.columns[0]}: {S[-1, 0]:.1f} of {S[0, 0]:.1f}")
print(f"OP {metrics.overall_performance(S):.1f}, BWT {metrics.backward_transfer(S):.1f}")
