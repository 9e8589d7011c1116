"""Sentences of different lengths are classified: an embedding, and a layer that reads both ways.

Made-up reviews; what is said after the last "but" counts, and "not" turns it round.
"""

import sys

import numpy as np

import pyoptk
from pyoptk.layers import Dropout, Embedding, Last, Linear, Sequential

GOOD, BAD = ["good", "great", "fun", "clever"], ["bad", "dull", "slow", "silly"]
SUBJECTS = ["the plot", "the film", "its music", "every actor", "the first hour"]
epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
rng = np.random.default_rng(0)


def review():
    """A few clauses, and whether the last one is a praise."""
    clauses = []
    for _ in range(rng.integers(1, 6)):
        praise, negated = rng.integers(2, size=2)
        verb = "is not" if negated else "is"
        clauses.append(f"{rng.choice(SUBJECTS)} {verb} {rng.choice(GOOD if praise else BAD)}")
    return " but ".join(clauses), praise ^ negated


sentences, labels = zip(*(review() for _ in range(3000)), strict=True)
words = ["", *sorted({word for sentence in sentences for word in sentence.split()})]
number = {word: k for k, word in enumerate(words)}
lengths = np.array([len(sentence.split()) for sentence in sentences])
x = np.zeros((len(sentences), lengths.max()), np.int64)  # 0 is the padding
for row, sentence in zip(x, sentences, strict=True):
    row[: len(sentence.split())] = [number[word] for word in sentence.split()]

model = Sequential(
    Embedding(len(words), 16, padding_idx=0, rng=rng),
    pyoptk.LSTM(16, 24, bidirectional=True, batch_first=True, rng=rng),
    Last(batch_first=True, bidirectional=True),
    Dropout(0.1, rng=rng),
    Linear(48, 2, rng=rng),
)
history = pyoptk.fit(
    model, pyoptk.losses.cross_entropy, pyoptk.Adam(model.params, lr=0.005), x, np.array(labels),
    epochs=epochs, validation=0.2, metrics=["accuracy"], lengths=lengths, rng=rng,
)  # fmt: skip
print(model, history, sep="\n")
found = model.predict(x[-5:], lengths=lengths[-5:]).argmax(axis=1)
for sentence, praise in zip(sentences[-5:], found, strict=True):
    print("praise:" if praise else "blame: ", sentence)
