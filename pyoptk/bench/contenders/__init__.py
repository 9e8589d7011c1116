"""One file per library, one function per task; see `pyoptk.bench.contender` for what they take."""
