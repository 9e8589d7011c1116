"""The picture that `python -m pyoptk demo` draws."""

from pyoptk.__main__ import main

if main(["demo", "--output", "demo.png"]):
    raise SystemExit("the demo failed")
