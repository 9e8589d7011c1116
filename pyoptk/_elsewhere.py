"""The names that other libraries have for arguments and attributes, for error messages. Private."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# Other libraries' names of an argument or attribute, and ours: the first that the object has.
_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "learning_rate": ("lr",), "eta": ("lr",), "step_size": ("lr",), "stepsize": ("lr",),
    "alpha": ("rho", "lr"), "decay": ("rho", "weight_decay"), "smoothing_constant": ("rho",),
    "betas": ("beta1 and beta2",), "b1": ("beta1",), "b2": ("beta2",), "beta_1": ("beta1",),
    "beta_2": ("beta2",), "epsilon": ("eps",), "etas": ("eta_minus and eta_plus",),
    "clipnorm": ("max_norm",), "global_clipnorm": ("max_norm",), "clip_norm": ("max_norm",),
    "max_grad_norm": ("max_norm",), "clipvalue": ("clip_value",), "ema_momentum": ("ema_decay",),
    "use_ema": ("ema_decay",), "wd": ("weight_decay",), "l2": ("weight_decay",),
    "initial_accumulator_value": ("initial_accumulator",), "loss_scale": ("grad_scale",),
    "param_groups": ("groups",), "mask": ("decay_mask",), "nesterovs_momentum": ("nesterov",),
    "units": ("hidden_size", "outputs"), "n_hidden": ("hidden_size",),
    "input_dim": ("input_size", "rows"),
    "time_major": ("batch_first",), "layout": ("batch_first",), "input_forget": ("coupled",),
    "linear_before_reset": ("reset_after",), "activations": ("nonlinearity",),
    "clip": (),  # ONNX's is not cell_clip
    "parameters": ("params",), "named_parameters": ("params",),
    "weights": ("params",), "trainable_variables": ("params",), "get_weights": ("state_dict",),
    "set_weights": ("load_state_dict",), "update": ("step",), "minimize": ("step",),
    "apply_gradients": ("step",), "variables": ("state",), "validation_data": ("validation",),
    "validation_split": ("validation",), "verbose": ("progress",), "n_epochs": ("epochs",),
    "in_features": ("inputs",), "out_features": ("outputs",), "use_bias": ("bias",),
    "num_embeddings": ("rows",), "embedding_dim": ("width",), "output_dim": ("width",),
    "normalized_shape": ("size",), "rate": ("p",), "negative_slope": ("slope",),
    "weight": ("class_weights", "weights"), "sample_weight": ("weights",), "beta": ("delta",),
}  # fmt: skip


def _meant(name: str, known: Iterable[str]) -> list[str]:
    return [n for n in _ELSEWHERE.get(name, ()) if n.split()[0] in known][:1]


def question(name: str, known: Iterable[str]) -> str:
    """For error messages: which of the known names is meant, or an empty string."""
    from difflib import get_close_matches  # here, because it takes 2 ms

    similar = [] if _ELSEWHERE.get(name) == () else get_close_matches(name, known, 1)
    meant = _meant(name, known) or similar
    return f"; did you mean {meant[0]}?" if meant else ""


def no_attribute(of: object, name: str, *known: str) -> AttributeError:
    """The error for an attribute that an object lacks, with the name that it has here."""
    meant = _meant(name, (*known, *dir(type(of)), *vars(of)))
    asked = f"; did you mean {meant[0]}?" if meant else ""
    return AttributeError(f"{type(of).__name__} has no attribute {name!r}{asked}")


class Instead:
    """An attribute of other libraries' models: reading it raises an error with our way to do it.

    A class with a ``__getattr__`` would make Python slower at finding all its attributes.
    """

    def __init__(self, instead: str) -> None:
        self.instead = instead

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, of: object, owner: type) -> object:
        raise AttributeError(f"{owner.__name__} has no attribute {self.name!r}; {self.instead}")


def refuse_call(argument: str, count: int, key: str | None = None, *switches: str) -> None:
    """Raise for a call with an unknown keyword, or with `argument` twice, not, or not alone."""
    if key is not None:
        check_names((key,), (argument, *dict.fromkeys(switches)))
    got = f"{count} by position{' and one by keyword' if key else ''}"
    raise TypeError(f"{argument}: expected once, and nothing else by position, got {got}")


def check_names(names: Iterable[str], known: Sequence[str]) -> None:
    """Raise unless every name is a known keyword."""
    for name in names:
        if name not in known:
            asked = question(name, known) or "."
            raise TypeError(f"{name}: unknown keyword{asked} Known: {', '.join(known)}")
