"""`python -m pyoptk bench`, and what it shares with the duels of the source tree (bench/peers)."""
