"""What is read out of stored runs. Nothing here needs PyTorch.

`text` writes figures and matrices, `stored` is the one reader of runs; on these stand `summary`, `compare`, `tables`,
`page` and `plots`, each a command of its own, and on `plots` the `report` that a run leaves behind.
"""
