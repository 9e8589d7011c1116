"""The paths of four optimizers on three functions of two variables."""

import numpy as np

import pyoptk


def valley(p):
    """Its value and its gradient."""
    return p[0] ** 2 / 2 + 15 * p[1] ** 2, np.array([p[0], 30 * p[1]])


def rosenbrock(p):
    x, y = p
    value = (1 - x) ** 2 + 100 * (y - x**2) ** 2
    return value, np.array([2 * (x - 1) - 400 * x * (y - x**2), 200 * (y - x**2)])


def saddle(p):
    x, y = p
    return x**2 - y**2 + y**4 / 4, np.array([2 * x, y**3 - 2 * y])


SURFACES = {valley: (-1.8, 0.9), rosenbrock: (-1.2, 1.6), saddle: (-1.5, 0.01)}
OPTIMIZERS = {  # and a learning rate for each surface
    "SGD, momentum 0.9": (lambda p, lr: pyoptk.SGD(p, lr=lr, momentum=0.9), (0.03, 0.0005, 0.05)),
    "RMSprop": (lambda p, lr: pyoptk.RMSprop(p, lr=lr), (0.03, 0.01, 0.03)),
    "Adam": (lambda p, lr: pyoptk.Adam(p, lr=lr), (0.1, 0.1, 0.1)),
    "Lion": (lambda p, lr: pyoptk.Lion(p, lr=lr), (0.03, 0.01, 0.03)),
}

paths, steps = {}, 200
for k, (surface, start) in enumerate(SURFACES.items()):
    for name, (make, lrs) in OPTIMIZERS.items():
        point = np.array(start)
        optimizer = make(point, lrs[k])
        path = [point.copy()]
        for _ in range(steps):
            optimizer.step(surface(point)[1])
            path.append(point.copy())
        paths[surface.__name__, name] = np.array(path)
        print(f"{surface.__name__}, {name}: {surface(point)[0]:.3g} after {steps} steps")
