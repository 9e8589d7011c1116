"""Recurrent operators of ONNX: the node tests that its package makes, exports of PyTorch."""

import importlib
import inspect
import io
import warnings

import numpy as np
import pytest

import pyoptk

onnx = pytest.importorskip("onnx")
OPERATORS = ("LSTM", "GRU", "RNN")


def attributes(node):
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def node_tests():
    """The cases of onnx.backend.test for these operators; their modules make them on import."""
    node = importlib.import_module("onnx.backend.test.case.node")
    for operator in OPERATORS:
        importlib.import_module(f"{node.__name__}.{operator.lower()}")
    cases = {case.name: case for case in node._NodeTestCases}
    return [c for c in cases.values() if c.model.graph.node[0].op_type in OPERATORS]


def settings_of(operator, given):
    """The keywords of `from_onnx` that an operator's attributes stand for."""
    settings = {}
    if operator == "GRU" and not given.get("linear_before_reset", 0):
        settings["reset_after"] = False
    for name in given.get("activations", [b"Tanh"])[:1] if operator == "RNN" else ():
        settings["nonlinearity"] = name.decode().lower()
    return settings


def run(node, inputs):
    """The outputs of an operator by name, from a layer with its weights."""
    operator, given = node.op_type, attributes(node)
    layout, direction = given.get("layout", 0), given.get("direction", b"forward")
    settings = settings_of(operator, given)
    cls = getattr(pyoptk, operator)
    settings |= {"P": inputs["P"]} if "P" in inputs else {}
    layer = cls.from_onnx(*(inputs.get(name) for name in "WRB"), **settings)
    x = inputs["X"].swapaxes(0, 1) if layout else inputs["X"]
    x = x[::-1] if direction == b"reverse" else x  # a layer for itself runs forwards
    state = [inputs[name] for name in ("initial_h", "initial_c") if name in inputs]
    state = None if not state else tuple(state) if operator == "LSTM" else state[0]
    y, last = layer.forward(x, state, lengths=inputs.get("sequence_lens"))
    y = y.reshape(*y.shape[:2], layer.directions, -1).swapaxes(1, 2)  # [T, D, B, H]
    y = y[::-1] if direction == b"reverse" else y
    h, *c = last if operator == "LSTM" else (last,)
    if layout:
        y, h, *c = y.transpose(2, 0, 1, 3), *(part.swapaxes(0, 1) for part in (h, *c))
    return dict(zip(("Y", "Y_h", "Y_c"), (y, h, *c), strict=False))


@pytest.mark.parametrize("case", node_tests(), ids=lambda case: case.name)
def test_node_tests_of_onnx_pass(case):
    node = case.model.graph.node[0]
    if "P" in node.input and "peepholes" not in inspect.signature(pyoptk.LSTM).parameters:
        pytest.skip("peepholes")
    gru = attributes(node) if node.op_type == "GRU" else {"linear_before_reset": 1}
    if settings_of("GRU", gru) and "reset_after" not in inspect.signature(pyoptk.GRU).parameters:
        pytest.skip("linear_before_reset=0")
    for given, expected in case.data_sets:
        inputs = dict(zip([name for name in node.input if name], given, strict=True))
        ours = run(node, inputs)
        wanted = [name for name in node.output if name]
        for name, theirs in zip(wanted, expected, strict=True):
            np.testing.assert_allclose(ours[name], theirs, rtol=0, atol=1e-6)


EXPORTS = [
    ("LSTM", {"bidirectional": True}), ("GRU", {}),
    ("GRU", {"bidirectional": True, "num_layers": 2}),
    ("RNN", {}), ("RNN", {"nonlinearity": "relu", "num_layers": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), EXPORTS, ids=str)
def test_weights_of_a_model_that_pytorch_exported(kind, options):
    torch = pytest.importorskip("torch")
    model, x, file = getattr(torch.nn, kind)(4, 5, **options), torch.randn(6, 3, 4), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its older exporter, which needs onnx alone
        torch.onnx.export(model, (x,), file, dynamo=False)
    graph = onnx.load_from_string(file.getvalue()).graph
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == kind]
    assert len(nodes) == options.get("num_layers", 1)
    weights = [[stored[node.input[k]] for node in nodes] for k in (1, 2, 3)]
    settings = settings_of(kind, attributes(nodes[0]))
    layer = getattr(pyoptk, kind).from_onnx(*weights, **settings)
    with torch.inference_mode():
        expected = model(x)[0].numpy()
    assert np.abs(layer.forward(x.numpy())[0] - expected).max() < 2e-6
