"""thinc's work: its Adam with NumpyOps.

Its best settings: no averages, decay or clipping where nobody asks for them. Its optimizer sets the
gradient to zero, so each call gets a fresh copy of it, as it would from a backward pass; zeros
would make its moments decay into denormal numbers, which are slow.
"""

from thinc.api import Adam

PACKAGES = ("thinc",)
LR = 1e-3


def step(params, grads, *, optimizer, max_norm=0.0, **more):
    if optimizer != "Adam" or more or (max_norm and len(params) > 1):  # it clips each tensor alone
        raise NotImplementedError
    opt = Adam(LR, L2=0.0, eps=1e-8, grad_clip=max_norm, use_averages=False)
    used = [g.copy() for g in grads]

    def work():
        for i, (p, g, once) in enumerate(zip(params, grads, used, strict=True)):
            once[...] = g
            params[i], _ = opt((i, "W"), p, once)

    return work, lambda _: params[:1]
