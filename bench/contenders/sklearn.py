"""scikit-learn's work: the optimizers of its MLPClassifier and MLPRegressor, and the classifier.

Its best settings: float32 throughout, one call for all parameters; the classifier with neither L2
nor shuffling, and each `partial_fit` one batch.
"""

import warnings

from sklearn.neural_network import MLPClassifier
from sklearn.neural_network import _stochastic_optimizers as optimizers

PACKAGES = ("scikit-learn",)
LR = 1e-3


def step(params, grads, *, optimizer, momentum=0.9, **more):
    if optimizer not in ("Adam", "SGD") or more:
        raise NotImplementedError
    if optimizer == "Adam":
        opt = optimizers.AdamOptimizer(params, LR)
    else:
        opt = optimizers.SGDOptimizer(params, LR, momentum=momentum, nesterov=False)
    return lambda: opt.update_params(params, grads), lambda _: params[:1]


def mlp(x, labels, weights):
    warnings.simplefilter("ignore")
    model = MLPClassifier(
        [len(b) for b in weights[1:-1:2]], alpha=0, batch_size=len(x), learning_rate_init=LR,
        shuffle=False, random_state=0,
    )  # fmt: skip
    # The first call makes the parameters and the optimizer; then both start from ours.
    model.partial_fit(x, labels, classes=list(range(len(weights[-1]))))
    arrays = [a for pair in zip(model.coefs_, model.intercepts_, strict=True) for a in pair]
    for array, value in zip(arrays, weights, strict=True):
        array[...] = value.T
    model._optimizer.t = 0
    for array in model._optimizer.ms + model._optimizer.vs:
        array[...] = 0
    return lambda: model.partial_fit(x, labels), lambda _: [array.T for array in arrays]
