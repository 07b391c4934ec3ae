"""The strategies, one file each, and `hft`, the wrapper round any of them. They import nothing of `trace_cl`."""
