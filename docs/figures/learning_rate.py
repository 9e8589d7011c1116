"""The curve of the range test of programs/learning_rate.py, and the trainings after it."""

import curves


def draw(found):
    figure, (left, right) = curves.figure_of(2, 3.6)
    test = found["found"]
    left.plot(test.lr, test.loss, ".", ms=3, color="#888888", label="loss of a batch")
    left.plot(test.lr, test.smooth, color=curves.SKY, label="mean")
    left.axvline(test.suggestion, color=curves.ORANGE, ls="--", label="suggestion")
    left.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(0, 4 * test.smooth[0]))
    left.legend(loc="upper left")
    curves.curves(right, found["curves"], xlabel="epoch", yscale="log")
    return figure
