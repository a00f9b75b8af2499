"""Benchmark of the operations against the forms people use today: `python -m promptkernels bench`."""
