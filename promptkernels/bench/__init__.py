"""Benchmark of the operations against other implementations: `python -m promptkernels bench`."""
