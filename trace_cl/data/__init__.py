"""The benchmarks: their files read and checked, their examples encoded and batched."""
