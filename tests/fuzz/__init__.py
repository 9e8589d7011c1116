"""Random calls of everything public, each compared with a twin or refused without a trace.

Run it from the root of a checkout: ``python -m tests.fuzz --minutes 1 --seed 7``. docs/testing.md
says what the classes of tries are. A try is a function of (class, seed, number) alone, so the line
that a failure prints repeats it.
"""
