"""Starting runs: on several processes, in sweeps, and whether this machine can."""
