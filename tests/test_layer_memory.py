"""Memory of layers: moved into a model, shared, frozen, changed or read between the passes."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
from model_rows import rng

import pyoptk
from pyoptk.layers import (
    Activation,
    Dropout,
    Embedding,
    Flatten,
    Last,
    LayerNorm,
    Linear,
    Sequential,
)
from pyoptk.layers.linear import NEEDED

X = rng().standard_normal((5, 4, 3)).astype(np.float32)
WITH_PARAMS = {
    "Linear": lambda: Linear(3, 2, rng=rng()),
    "LayerNorm": lambda: LayerNorm(3),
    "LSTM": lambda: pyoptk.LSTM(3, 2, rng=rng()),
    "minGRU": lambda: pyoptk.minGRU(3, 2, rng=rng()),
    "Sequential": lambda: Sequential(pyoptk.GRU(3, 3, rng=rng()), Linear(3, 2, rng=rng())),
}


def output(layer, x=X):
    y = layer.forward(x, train=False)
    return y[0] if isinstance(y, tuple) else y


@pytest.mark.parametrize("name", WITH_PARAMS)
@pytest.mark.parametrize("taken", [0, 1, 2])
def test_what_shares_parameters_moves_at_once(name, taken):
    layer = WITH_PARAMS[name]()
    family = [layer, layer.shared(), layer.shared().shared()]
    model = Sequential(family[taken])
    model.flat_params[:] *= 2
    expected = model.forward(X)
    for one in family:
        np.testing.assert_array_equal(output(one), expected)
        assert one.flat_params.ctypes.data == model.flat_params.ctypes.data
        assert one.flat_grads.ctypes.data == model.flat_grads.ctypes.data
        assert all(np.shares_memory(a, one.flat_params) for a in one.params.values())
    model.backward(np.ones_like(expected))
    assert any(np.any(grad) for grad in layer.grads.values())


@pytest.mark.parametrize("name", WITH_PARAMS)
def test_a_layer_is_in_one_model(name):
    layer = WITH_PARAMS[name]()
    model = Sequential(layer)
    for again in (layer, layer.shared(), *model.layers):
        with pytest.raises(ValueError, match=r"^layers\[0\]: expected a layer that is in no other"):
            Sequential(again)
    Sequential(copy.deepcopy(layer))
    del model
    gc.collect()
    Sequential(layer)


@pytest.mark.parametrize("name", WITH_PARAMS)
@pytest.mark.parametrize("of", [lambda m: m.flat_params, lambda m: [*m.params.values()]])
def test_a_step_on_arrays_that_were_left_is_refused(name, of):
    layer = WITH_PARAMS[name]()
    optimizer = pyoptk.SGD(of(layer), lr=0.1)
    grads = copy.deepcopy(of(layer))
    Sequential(layer)
    with pytest.raises(ValueError, match="read-only"):
        optimizer.step(grads)


COPIES = [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: Sequential(m)]


@pytest.mark.parametrize("name", WITH_PARAMS)
@pytest.mark.parametrize("how", COPIES)
def test_a_frozen_array_stays_frozen(name, how):
    layer = WITH_PARAMS[name]()
    frozen, free = list(layer.params)[:2]
    layer.params[frozen].flags.writeable = False
    params = list(how(layer).params.items())
    for key, array in params[:2]:
        assert array.flags.writeable == key.endswith(free)


def test_a_buffer_whose_dtype_was_set_is_refused():
    layer = pyoptk.LSTM(2, 2)
    layer.flat_params.dtype = np.int32
    for how in (copy.deepcopy, Sequential):
        with pytest.raises(TypeError, match="expected float32"):
            how(layer)


@pytest.mark.parametrize("name", ["params", "grads", "flat_params", "flat_grads", "weight"])
@pytest.mark.parametrize("model", [LayerNorm(3), Linear(3, 2), Sequential(Linear(3, 2))])
def test_assigning_memory_is_refused(name, model):
    if name == "weight" and isinstance(model, Sequential):
        name = "0.weight"
    with pytest.raises(AttributeError, match=f"^{name}: cannot be assigned"):
        setattr(model, name, {})
    model.flat_params += 1  # sets the same array again


def test_masks_of_shared_layers_differ():
    model = Sequential(Dropout(0.5, seed=1), Dropout(0.5, seed=2), pyoptk.LSTM(3, 2, seed=3))
    first, second = model.shared(), model.shared()
    seeds = [layer.seed for one in (model, first, second, first.shared()) for layer in one.layers]
    assert len({*seeds}) == len(seeds)


CHANGES = {
    "p": (Dropout(0.5, seed=1), "p", 0.1),
    "seed": (Dropout(0.5, seed=1), "seed", 2),
    "activation": (Linear(3, 2, "tanh", rng=rng()), "activation", "relu"),
    "slope": (Linear(3, 2, "leaky_relu", rng=rng()), "slope", 0.7),
    "slope, refused": (Linear(3, 2, "leaky_relu", rng=rng()), "slope", -1.0),
    "activation, refused": (Linear(3, 2, "relu", rng=rng()), "activation", ["relu"]),
    "inputs, refused": (Linear(3, 2, "relu", rng=rng()), "inputs", -1),
    "alone": (Activation("tanh"), "activation", "relu"),
    "alone, slope": (Activation("leaky_relu"), "slope", 0.7),
    "bidirectional": (Last(), "batch_first", True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_changed_after_forward_leaves_its_backward(name):
    layer, setting, value = CHANGES[name]
    results, x = [], X[:, :, :2] if name == "bidirectional" else X
    for changed in (False, True):
        one = copy.deepcopy(layer)
        y = one.forward(x)
        if changed:
            setattr(one, setting, value)
        results.append(one.backward(np.ones_like(y)))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("f", ["relu", "leaky_relu", "tanh", "sigmoid", "gelu", "none"])
@pytest.mark.parametrize("x", [X, X[0], X[0, 0]])
def test_an_output_changed_in_place_is_refused_or_harmless(f, x):
    for layer in (
        Linear(3, 2, f, rng=rng()),
        Activation(f),
        Sequential(Linear(3, 2, f, rng=rng())),
    ):
        y = layer.forward(x)
        expected = layer.backward(np.ones_like(y))
        y = layer.forward(x)
        if f in ("gelu", "none"):
            y -= 1
        else:
            with pytest.raises(ValueError, match="read-only"):
                y -= 1
        np.testing.assert_array_equal(layer.backward(np.ones_like(y)), expected)
        layer.forward(x, train=False)[...] = 0


LAYERS = {
    "Linear": lambda: Linear(3, 3),
    "LayerNorm": lambda: LayerNorm(3),
    "Activation": lambda: Activation("relu"),
    "Dropout": lambda: Dropout(0.5),
    "Flatten": Flatten,
    "Last": Last,
    "Embedding": lambda: Embedding(9, 3),
}


@pytest.mark.parametrize("name", LAYERS)
def test_masked_and_ragged_arrays_are_refused(name):
    layer, x = LAYERS[name](), np.ones((5, 4, 3), int) if name == "Embedding" else X
    for refused, what in ((np.ma.array(x, mask=x > 0), "masked"), ([[1.0], [1.0, 2.0]], "ragged")):
        with pytest.raises((TypeError, ValueError), match=f"^x: expected .*{what}"):
            layer.forward(refused)
        dy = np.ma.array(layer.forward(x)) if what == "masked" else refused
        with pytest.raises((TypeError, ValueError), match=f"^dy: expected .*{what}"):
            layer.backward(dy)


@pytest.mark.parametrize("name", LAYERS)
def test_a_gradient_has_the_shape_of_the_output(name):
    layer, x = LAYERS[name](), np.ones((5, 4, 3), int) if name == "Embedding" else X
    y = layer.forward(x)
    with pytest.raises(ValueError, match=r"^dy: expected "):
        layer.backward(np.ones(y.shape[1::-1] + y.shape[2:], y.dtype))
    layer.backward(np.ones_like(y))


@pytest.mark.parametrize("name", [*LAYERS, "Sequential"])
def test_switches_are_true_or_false(name):
    layer, x = LAYERS.get(name, lambda: Sequential(Linear(3, 3)))(), X
    x = np.ones((5, 4), int) if name == "Embedding" else x
    with pytest.raises(TypeError, match=r"^train: expected True or False"):
        layer.forward(x, train="no")
    y = layer.forward(x)
    for switch in ("accumulate",) if name == "Embedding" else ("need_dx",):
        with pytest.raises(TypeError, match=f"^{switch}: expected True or False"):
            layer.backward(np.ones_like(y), **{switch: "yes"})
    layer.backward(np.ones_like(y))


IN_PLACE = {
    "Embedding": (lambda: Embedding(4, 4), np.array([0, 3])),
    "Linear": (lambda: Linear(4, 4), np.ones((2, 4), np.float32)),
    "minGRU": (lambda: pyoptk.minGRU(4, 4), np.ones((2, 1, 4), np.float32)),
    "minLSTM": (lambda: pyoptk.minLSTM(4, 4), np.ones((2, 1, 4), np.float32)),
}


@pytest.mark.filterwarnings("ignore:Setting the:DeprecationWarning")
@pytest.mark.parametrize("attribute", [("dtype", "f8"), ("shape", (2, 8)), ("strides", (0, 4))])
@pytest.mark.parametrize("name", IN_PLACE)
def test_parameters_whose_layout_was_set_in_place_are_refused(name, attribute):
    make, x = IN_PLACE[name]
    layer = make()
    weight = next(array for name, array in layer.params.items() if "weight" in name)
    setattr(weight, *attribute)
    with pytest.raises((TypeError, ValueError), match=r"^(params\['weight|w: expected)"):
        layer.forward(x)


def test_an_embedding_asks_for_memory_first():
    rows = np.lib.stride_tricks.as_strided(np.zeros(1, int), (2**58,), (0,))
    for width in (4, 64):
        with pytest.raises(MemoryError, match=r"no array of float32|Unable to allocate"):
            Embedding(4, width).forward(rows)


def test_what_another_forward_left_is_refused():
    layer = Linear(3, 2)
    for kept in ((1, 2, 3, 4, 5), (None, np.ones((5, 2), np.float32), None, "none", 0.0)):
        layer._kept = kept
        with pytest.raises(TypeError, match=r"^_kept: expected what forward of this layer"):
            layer.backward(np.ones((5, 2), np.float32))


# ---- few rows, for which the passes of Linear take results of earlier calls that nobody has ------

FEW = rng().standard_normal((8, 20)).astype(np.float32)
HELD = {
    "array": lambda y: y,
    "view": lambda y: y[:2, 1:],
    "memory": memoryview,
    "weak reference": weakref.ref,
    "cycle": lambda y: (parts := [y]).append(parts) or parts,
}


@pytest.mark.parametrize("which", ["y", "dx"])
@pytest.mark.parametrize("how", HELD)
def test_a_result_that_is_held_stays_as_it_is(how, which):
    layer, held, before = Linear(20, 20, "relu", rng=rng()), [], []

    def call(x):
        y = layer.forward(x)
        result = {"y": y, "dx": layer.backward(np.ones_like(y))}[which]
        held.append(HELD[how](result))
        before.append(result.copy())

    for i in range(5):
        call(FEW + i)
    for kept, was in zip(held, before, strict=True):
        if how == "weak reference":
            if kept() is None:
                continue
            kept = kept()
        kept = kept[0] if how == "cycle" else np.asarray(kept)
        np.testing.assert_array_equal(kept, was[:2, 1:] if how == "view" else was)


@pytest.mark.parametrize("f", [None, "relu", "gelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_few_rows_have_the_bits_of_the_general_passes(f, bias, dtype):
    layer, x = Linear(20, 33, f, bias=bias, dtype=dtype, rng=rng()), FEW.astype(dtype)
    found = []
    for rows in (x, x[None], x[:, ::-1].copy()[:, ::-1]):  # two of them are not as usual
        for accumulate in (False, True):
            y = layer.forward(rows)
            dx = layer.backward(np.cos(y), accumulate=accumulate)
        found.append([y.ravel(), dx.ravel(), layer.flat_grads.copy()])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


OVERLAPS = {  # what x or dy is, and the gradient that it meets
    "x": lambda grads: (grads["weight"], FEW[:8, :8], "dw"),
    "dy": lambda grads: (FEW[:8, :8], grads["weight"], "dw"),
    "dy, the bias": lambda grads: (FEW[:1, :8], grads["bias"][None], "db"),
}


@pytest.mark.parametrize("which", OVERLAPS)
def test_few_rows_that_overlap_a_gradient_are_refused(which):
    layer = Linear(8, 8, "tanh", rng=rng())
    layer.flat_grads[:] = 0.5
    x, dy, name = OVERLAPS[which](layer.grads)
    layer.forward(np.ascontiguousarray(x) if x.base is FEW else x)
    with pytest.raises(ValueError, match=f"^{name}: expected memory of its own"):
        layer.backward(np.ascontiguousarray(dy) if dy.base is FEW else dy)
    assert (layer.flat_grads == 0.5).all()


def test_few_rows_see_what_has_changed_since_the_last_call():
    layer = Linear(20, 20, "relu", rng=rng())
    first = layer.forward(FEW)
    layer.activation = "none"
    np.testing.assert_array_equal(np.maximum(layer.forward(FEW), 0), first)
    model = Sequential(layer)
    model.flat_params[:] = 0
    assert not layer.forward(FEW).any()
    layer.backward(FEW)
    assert np.any(model.flat_grads)


UNUSUAL = {  # what is set, and what forward says
    "activation": (["relu"], "^activation: expected one of none, relu"),
    "slope": (-1.0, "^slope: expected a number >= 0"),
    "inputs": (-1, r"^x: expected float32 \(..., -1\)"),
    "outputs": (2**70, "no array of float32"),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_settings_that_do_not_fit_are_refused_by_name(name):
    layer, (value, message) = Linear(20, 20, "leaky_relu"), UNUSUAL[name]
    setattr(layer, name, value)
    with pytest.raises((TypeError, ValueError, MemoryError), match=message):
        layer.forward(FEW)


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_attributes_that_calls_need_cannot_be_deleted(name):
    layer = Linear(20, 20, "relu", compute="bfloat16", rng=rng())
    layer.note, rounded = 1, layer.forward(FEW)
    with pytest.raises(AttributeError, match=f"^{name}: cannot be deleted"):
        delattr(layer, name)
    del layer.note, layer.compute
    assert np.any(layer.forward(FEW) != rounded)


def test_a_layer_without_what_forward_keeps_asks_for_one():
    layer = Linear(20, 20)
    layer.forward(FEW)
    del layer._kept
    with pytest.raises(RuntimeError, match=r"^backward: expected a forward"):
        layer.backward(FEW)


def test_attributes_of_a_layer_can_be_copied_after_a_call():
    class Plain(Linear):
        def __getstate__(self):
            return dict(self.__dict__)

    layer = Plain(20, 20, rng=rng())
    y = layer.forward(FEW)
    for own in (copy.deepcopy(layer.__dict__), pickle.loads(pickle.dumps(layer.__dict__))):
        assert own["_usual"] is None
    other = copy.deepcopy(layer)
    layer.flat_params[:] = 0
    np.testing.assert_array_equal(other.forward(FEW), y)


def test_a_layer_makes_its_instance_together_with_other_classes():
    class Counted:
        def __new__(cls, *_, **__):
            made = super().__new__(cls)
            made.__dict__["count"] = 1
            return made

    class OneLinear(Linear, Counted):
        pass

    class Own(pyoptk.layers.Layer, Counted, Exception):
        pass

    assert OneLinear(3, 2).count == Own().count == 1
