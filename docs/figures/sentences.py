"""The curves of examples/sentences.py."""

import curves


def draw(found):
    return curves.epochs(found["history"], "loss", "accuracy")
