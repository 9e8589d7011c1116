"""`python -m pyoptk bench`, and the timer, the rows and the contenders that `bench/` shares."""
