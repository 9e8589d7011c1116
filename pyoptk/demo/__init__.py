"""The demos of `python -m pyoptk demo`: a forecaster on a real series, a classifier, a line.

Each demo is a module with one public `run`, which prints a report and may save a picture.
`series.py` reads and checks the data, `parts.py` is what the demos share, `plot.py` holds every
picture. They show how pyoptk is used from NumPy; nothing else in the package imports them.
"""
