"""Head-to-head measurements against other libraries: ``python -m bench.peers --help``."""
