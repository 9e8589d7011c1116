"""scikit-learn's work: the optimizers of its MLPClassifier and MLPRegressor, and the classifier.

Its best settings: float32 throughout, one call for all parameters; the classifier with neither L2
nor shuffling, and each `partial_fit` one batch.
"""

import warnings

PACKAGES = ("scikit-learn",)
LR = 1e-3


def step(params, grads, *, optimizer, threads, momentum=0.9, **more):
    from sklearn.neural_network import _stochastic_optimizers as optimizers

    if optimizer not in ("Adam", "SGD") or more:
        raise NotImplementedError
    if optimizer == "Adam":
        opt = optimizers.AdamOptimizer(params, LR)
    else:
        opt = optimizers.SGDOptimizer(params, LR, momentum=momentum, nesterov=False)
    return lambda: opt.update_params(params, grads), lambda: params[:1]


def mlp(x, labels, weights, *, threads):
    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore")
    hidden = [len(b) for _, b in weights[:-1]]
    classes = list(range(len(weights[-1][1])))
    model = MLPClassifier(
        hidden, alpha=0, batch_size=len(x), learning_rate_init=LR, shuffle=False, random_state=0
    )
    # The first call makes the parameters and the optimizer; then both start from ours.
    model.partial_fit(x, labels, classes=classes)
    for k, (w, b) in enumerate(weights):
        model.coefs_[k][...], model.intercepts_[k][...] = w.T, b
    opt = model._optimizer
    opt.t = 0
    for array in opt.ms + opt.vs:
        array[...] = 0
    outcome = zip(model.coefs_, model.intercepts_, strict=True)
    arrays = [array for w, b in outcome for array in (w.T, b)]
    return lambda: model.partial_fit(x, labels), lambda: arrays
