"""The values of Keras's own optimizer tests, for ``like("keras")`` with Keras's own keywords.

Source: keras/src/optimizers/*_test.py of Keras 3.15.1 (Apache-2.0), whose wheel contains them. Only
the numbers are taken over: arguments, gradients, expected values and tolerances. Keras itself need
not be installed.
"""

import numpy as np
import pytest

import pyoptk

# Our name: what one step with learning_rate=0.5 and gradient (1, 6, 7, 2) makes of (1, 2, 3, 4).
# From test_single_step of each file.
SINGLE_STEP = {
    "SGD": [0.5, -1.0, -0.5, 3.0],
    "AdaGrad": [0.5233, 1.5007, 2.5005, 3.5061],
    "RMSprop": [-0.5811, 0.4189, 1.4189, 2.4189],
    "Adadelta": [0.9993, 1.9993, 2.9993, 3.9993],
    "Adam": [0.5, 1.5, 2.5, 3.5],
    "AdamW": [0.4980, 1.4960, 2.494, 3.492],
    "NAdam": [0.4686, 1.4686, 2.4686, 3.4686],
    "Adamax": [0.5, 1.5, 2.5, 3.5],
    "Lion": [0.5, 1.5, 2.5, 3.5],
    "LAMB": [-0.3693, 0.6306, 1.6306, 2.6306],
}

# Our name: Keras's arguments, then what ten ones are after each of five steps; one number where all
# ten are the same. The first gradient is 0.01, the others are 0.1, 0.2, ... 1. From
# test_correctness_with_golden of each file.
GOLDEN = {
    "SGD": (
        {"nesterov": True},
        [
            [0.9999],
            [0.9989, 0.9979, 0.9969, 0.9959, 0.9949, 0.9939, 0.9929, 0.9919, 0.9909, 0.9899],
            [0.9979, 0.9959, 0.9939, 0.9919, 0.9899, 0.9879, 0.9859, 0.9839, 0.9819, 0.9799],
            [0.9969, 0.9939, 0.9909, 0.9879, 0.9849, 0.9819, 0.9789, 0.9759, 0.9729, 0.9699],
            [0.9959, 0.9919, 0.9879, 0.9839, 0.9799, 0.9759, 0.9719, 0.9679, 0.9639, 0.9599],
        ],
    ),
    "AdaGrad": (
        {"learning_rate": 0.2, "initial_accumulator_value": 0.3, "epsilon": 1e-6},
        [
            [0.9963],
            [0.9604, 0.9278, 0.9003, 0.8784, 0.8615, 0.8487, 0.8388, 0.8313, 0.8255, 0.8209],
            [0.9251, 0.8629, 0.8137, 0.7768, 0.7497, 0.7298, 0.7151, 0.704, 0.6956, 0.6891],
            [0.8903, 0.8012, 0.7342, 0.6862, 0.6521, 0.6277, 0.6099, 0.5967, 0.5867, 0.579],
            [0.856, 0.7422, 0.6604, 0.6037, 0.5644, 0.5367, 0.5168, 0.5021, 0.491, 0.4825],
        ],
    ),
    "RMSprop": ({"centered": True}, [[0.9967], [0.9933], [0.9908], [0.9885], [0.9864]]),
    "Adadelta": (
        {"learning_rate": 1.0, "rho": 0.8, "epsilon": 1e-6},
        [[0.9978], [0.9947], [0.9915], [0.9882], [0.9849]],
    ),
    "Adam": ({"amsgrad": True}, [[0.999], [0.9982], [0.9974], [0.9965], [0.9955]]),
    "AdamW": (
        {"learning_rate": 1.0, "weight_decay": 0.5, "epsilon": 2},
        [
            [0.4998],
            [0.2486, 0.2475, 0.2463, 0.2451, 0.244, 0.2428, 0.2417, 0.2405, 0.2394, 0.2382],
            [0.1223, 0.1198, 0.1174, 0.1149, 0.1124, 0.11, 0.1075, 0.1051, 0.1027, 0.1003],
            [0.0586, 0.0549, 0.0512, 0.0475, 0.0439, 0.0402, 0.0366, 0.033, 0.0294, 0.0258],
            [0.0263, 0.0215, 0.0167, 0.012, 0.0073, 0.0026, -0.0021, -0.0067, -0.0113, -0.0159],
        ],
    ),
    "NAdam": (
        {"learning_rate": 0.5, "beta_1": 0.5, "beta_2": 0.67, "epsilon": 1e-5},
        [
            [0.4281],
            [-0.1738, -0.1731, -0.1726, -0.1723, -0.1721, -0.172, -0.1719, -0.1718, -0.1718,
             -0.1717],
            [-0.7115, -0.7103, -0.7096, -0.7092, -0.709, -0.7088, -0.7086, -0.7085, -0.7085,
             -0.7084],
            [-1.2335, -1.2322, -1.2313, -1.2309, -1.2306, -1.2304, -1.2302, -1.2301, -1.23,
             -1.2299],
            [-1.7492, -1.7478, -1.7469, -1.7464, -1.7461, -1.7459, -1.7457, -1.7456, -1.7455,
             -1.7454],
        ],
    ),
    "Adamax": (
        {"learning_rate": 0.2, "beta_1": 0.85, "beta_2": 0.95, "epsilon": 1e-6},
        [
            [0.8],
            [0.6827, 0.6873, 0.6888, 0.6896, 0.6901, 0.6904, 0.6906, 0.6908, 0.6909, 0.691],
            [0.5333, 0.5407, 0.5431, 0.5444, 0.5451, 0.5456, 0.546, 0.5462, 0.5464, 0.5466],
            [0.368, 0.3773, 0.3804, 0.382, 0.3829, 0.3835, 0.384, 0.3843, 0.3846, 0.3848],
            [0.1933, 0.204, 0.2076, 0.2094, 0.2105, 0.2112, 0.2117, 0.2121, 0.2124, 0.2126],
        ],
    ),
    "Lion": ({}, [[0.999], [0.998], [0.997], [0.996], [0.995]]),
    "LAMB": ({}, [[0.999], [0.9982], [0.9974], [0.9965], [0.9955]]),
}  # fmt: skip
NAMES = list(SINGLE_STEP)


def keras_like(name, params, **given):
    return getattr(pyoptk, name).like("keras", params, **given)


@pytest.mark.parametrize("name", NAMES)
def test_single_step(name, dtype):
    variable = np.array([1.0, 2.0, 3.0, 4.0], dtype)
    keras_like(name, variable, learning_rate=0.5).step(np.array([1.0, 6.0, 7.0, 2.0], dtype))
    np.testing.assert_allclose(variable, SINGLE_STEP[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_correctness_with_golden(name, dtype):
    arguments, golden = GOLDEN[name]
    variable = np.ones(10, dtype)
    opt = keras_like(name, variable, **arguments)
    grads = [np.full(10, 0.01, dtype)] + 4 * [np.arange(1, 11, dtype=dtype) / dtype.type(10)]
    for grad, expected in zip(grads, golden, strict=True):
        opt.step(grad)
        np.testing.assert_allclose(variable, expected * (10 // len(expected)), 5e-4, 5e-4)


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay(name, dtype):
    decayed, by_name, by_key = (np.full((), 2.0, dtype) for _ in range(3))
    grad, given = np.zeros((), dtype), {"learning_rate": 1.0, "weight_decay": 0.004}
    keras_like(name, decayed, **given).step(grad)
    np.testing.assert_allclose(decayed, 1.992, atol=1.5e-6)
    for other in (by_name, by_key):  # here both of Keras's ways to exclude one are `no_decay`
        params = {"kernel": decayed, "exclude": other}
        opt = keras_like(name, params, no_decay=["exclude"], **given)
        opt.step({"kernel": grad, "exclude": grad})
    for variable, expected in ((decayed, 1.9760959), (by_name, 2.0), (by_key, 2.0)):
        np.testing.assert_allclose(variable, expected, atol=1.5e-6)


def test_weight_decay_of_adamw_is_a_number():
    with pytest.raises(TypeError, match=r"^weight_decay: expected .* got NoneType"):
        keras_like("AdamW", np.ones(1), learning_rate=1.0, weight_decay=None)
    assert keras_like("Adam", np.ones(1), weight_decay=None).weight_decay == 0


# Keras clips without a step. With SGD and lr 1 from 0, the step shows the clipped gradient; for the
# others, the gradient clipped beforehand does the same step.
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("arguments", "grad", "clipped"),
    [
        ({"clipnorm": 1}, [100.0, 100.0], [2**0.5 / 2, 2**0.5 / 2]),
        ({"clipvalue": 1}, [100.0, 100.0], [1.0, 1.0]),
        ({"global_clipnorm": 1}, [50.0, 100.0], [0.2**0.5, 0.8**0.5]),
        ({"global_clipnorm": 1e-6}, [2e-6, 0.0], [1e-6, 0.0]),
        ({"clipnorm": 0}, [50.0, 100.0], [50.0, 100.0]),  # as None: Keras asks whether it is true
        ({"clipvalue": 0}, [50.0, 100.0], [50.0, 100.0]),
        ({"global_clipnorm": 0}, [50.0, 100.0], [50.0, 100.0]),
    ],
)
def test_clipping(name, arguments, grad, clipped, dtype):
    variable, expected = np.zeros(2, dtype), np.zeros(2, dtype)
    keras_like(name, variable, learning_rate=1.0, **arguments).step(np.array(grad, dtype))
    keras_like(name, expected, learning_rate=1.0).step(np.array(clipped, dtype))
    np.testing.assert_allclose(variable, expected, rtol=1e-5)
    if name == "SGD":
        np.testing.assert_allclose(variable, -np.array(clipped), rtol=1e-6)


# ---- optimizer_test.py ---------------------------------------------------------------------------


def test_iterations_counter(dtype):
    variable = np.array([[1.0, 2.0], [3.0, 4.0]], dtype)
    opt = keras_like("Adam", variable, learning_rate=1.0)
    for count in range(3):
        assert opt.steps == count
        opt.step(np.ones((2, 2), dtype))


def test_empty_gradients(dtype):
    first, second = np.array([[3, 4], [5, 6]], dtype), np.array([[3, 4], [5, 6]], dtype)
    opt = keras_like("SGD", [first, second], learning_rate=1.0)
    opt.step([None, np.ones((2, 2), dtype)])
    np.testing.assert_array_equal(first, [[3, 4], [5, 6]])
    np.testing.assert_array_equal(second, [[2, 3], [4, 5]])


def test_ema(dtype):
    variable, grad = np.array([[3, 4], [5, 6]], dtype), np.ones((2, 2), dtype)
    opt = keras_like("SGD", variable, learning_rate=1.0, use_ema=True, ema_momentum=0.9)
    for expected, average in (
        ([[2, 3], [4, 5]], [[2.0, 3.0], [4.0, 5.0]]),  # begins after the first step
        ([[1, 2], [3, 4]], [[1.9, 2.9], [3.9, 4.9]]),
        ([[0, 1], [2, 3]], [[1.71, 2.71], [3.71, 4.71]]),
    ):
        opt.step(grad)
        np.testing.assert_allclose(variable, expected)
        np.testing.assert_allclose(opt.ema, average, rtol=1e-6)
    with opt.averaged():  # what Keras's ema_overwrite_frequency=3 makes permanent here
        np.testing.assert_allclose(variable, [[1.71, 2.71], [3.71, 4.71]], rtol=1e-6)
    with pytest.raises(ValueError, match=r"^ema_overwrite_frequency: expected None.* got 3$"):
        keras_like("SGD", variable, use_ema=True, ema_overwrite_frequency=3)


def test_ema_of_adam(dtype):
    variable, grad = np.array([1.0, 2.0], dtype), np.array([0.1, 0.2], dtype)
    opt = keras_like("Adam", variable, learning_rate=1.0, use_ema=True, ema_momentum=0.9)
    opt.step(grad)
    first = variable.copy()
    np.testing.assert_array_equal(opt.ema, first)
    opt.step(grad)
    np.testing.assert_allclose(opt.ema, 0.9 * first + 0.1 * variable, rtol=1e-6)


def test_ema_with_model_fit(dtype):
    weight = np.ones(
        (1, 2), dtype
    )  # a layer without bias, input 1, target 0, the mean of 2 squares
    opt = keras_like("SGD", weight, learning_rate=0.1, use_ema=True, ema_momentum=0.9)
    for _ in range(2):
        opt.step(weight.copy())
    np.testing.assert_allclose(opt.ema, [[0.891, 0.891]], rtol=0, atol=1e-5)


def test_static_loss_scaling(dtype):
    variable = np.array([[1.0, 2.0], [3.0, 4.0]], dtype)
    opt = keras_like("SGD", variable, learning_rate=1.0, loss_scale_factor=1024.0)
    opt.step(variable * 1024)
    np.testing.assert_array_equal(variable, np.zeros((2, 2)))


def test_set_weights(dtype):
    one, other = (np.array([[1.0, 2.0], [3.0, 4.0]], dtype) for _ in range(2))
    opt, restored = keras_like("Adam", one), keras_like("Adam", other)
    opt.step(one.copy())
    restored.load_state_dict(opt.state_dict())
    for name, array in opt.state.items():
        np.testing.assert_array_equal(restored.state[name], array)


def test_gradient_accumulation(dtype):
    variable, grad = np.array([[1.0, 2.0], [3.0, 4.0]], dtype), np.ones((2, 2), dtype)
    opt = pyoptk.Accumulation(keras_like("SGD", variable, learning_rate=1.0), k=3)
    for expected, steps in (
        ([[1, 2], [3, 4]], 0),
        ([[1, 2], [3, 4]], 0),
        ([[0, 1], [2, 3]], 1),
        ([[0, 1], [2, 3]], 1),
    ):
        opt.step(grad)
        np.testing.assert_array_equal(variable, expected)
        assert opt.optimizer.steps == steps
    with pytest.raises(ValueError, match=r"^gradient_accumulation_steps: .*Accumulation.* got 3$"):
        keras_like("SGD", variable, gradient_accumulation_steps=3)


def test_callable_learning_rate(dtype):
    variable = np.array([[1.0, 2.0], [3.0, 4.0]], dtype)
    keras_like("SGD", variable, learning_rate=lambda step: 0.1).step(np.ones((2, 2), dtype))
    np.testing.assert_allclose(variable, [[0.9, 1.9], [2.9, 3.9]], rtol=1e-6)
