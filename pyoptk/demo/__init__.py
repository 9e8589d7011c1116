"""The demos of `python -m pyoptk demo`: a forecaster on a real series, a classifier, a line.

Each demo is a module with one public `run`, which prints a report and may save a picture.
`series.py` holds the data, which `table.py` and `dates.py` read from a user's file; `ahead.py` the
rows to come, `parts.py` what the demos share, `plot.py` every picture. They are built from the
public layers, losses and optimizers; only the command line and the benchmarks import them.
"""
