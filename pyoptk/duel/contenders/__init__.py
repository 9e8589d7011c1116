"""One file per library, one function per task; `pyoptk.duel.contender` says what they take."""
