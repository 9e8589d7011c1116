"""LSTM layers: forward, backward, single steps. The arithmetic is compiled (csrc/kernels/rnn.h)."""

from __future__ import annotations

from typing import Literal, overload

from numpy.typing import ArrayLike

from .. import _rnn
from .._checks import check_switches
from .._rnn_step import LSTMStepper
from .convert import LSTMWeights
from .weights import Array, lstm_shapes

State = tuple[Array, Array]


class LSTM(LSTMWeights):
    """Long short-term memory layers (Hochreiter & Schmidhuber 1997, Gers et al. 2000).

    ``i, f, o = sigmoid(...), g = tanh(...)`` of ``w_ih x_t + b_ih + w_hh h_{t-1} + b_hh``, then
    ``c_t = f * c_{t-1} + i * g`` and ``h_t = o * tanh(c_t)``; each layer's input is the output of
    the one below. Weights, gate order (i, f, g, o) and names are PyTorch's.

    One thread at a time: a second one in the same layer is refused. Copies and pickles are whole
    layers of their own.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H, at least 1.
    num_layers : int
        L, at least 1.
    bias : bool
        Whether there are biases.
    batch_first : bool
        Whether sequences are [B, T, features] instead of [T, B, features]. Strides do it: nothing
        is transposed.
    bidirectional : bool
        Whether there is a second layer beside each that goes from the end to the beginning, with
        weights of its own; outputs stand side by side. D is then 2, else 1.
    dropout : float
        p in [0, 1): while training, what goes from one layer to the next is 0 with probability p,
        else divided by 1 - p (Srivastava et al. 2014). The mask is computed again for backward.
    seed : int, optional
        0..2**64-1, of the masks of dropout: each forward has its own, the same for any number of
        threads. Drawn from `rng` by default.
    save : {"full", "minimal"}
        What is kept for backward: all, or the outputs and a few states, from which the rest is
        computed again for about a third more time.
    dtype : float32 or float64
        Of weights, inputs and outputs.
    init : {"torch", "keras"}
        How weights are drawn. torch: all uniform in [-1/sqrt(H), 1/sqrt(H)]. keras: those of inputs
        uniform in +-sqrt(6 / (I + 4H)) (Glorot & Bengio 2010), recurrent ones orthogonal (Saxe et
        al. 2014), biases 0, but 1 for the forget gate.
    rng : numpy.random.Generator, optional
        Draws the weights.

    Attributes
    ----------
    params, grads : mappings of names to arrays
        weight_ih_l0 [4H, I] (in higher layers [4H, D * H]), weight_hh_l0 [4H, H], bias_ih_l0 and
        bias_hh_l0 [4H], if bidirectional the same with the ending _reverse, then those of layer 1,
        ...: views into `flat_params` and `flat_grads`. Read-only dicts; the arrays may be changed
        in place at any time: every call reads them anew, and nothing packed outlives it. (Between a
        forward and its backward that gives gradients of neither.)
    flat_params, flat_grads : arrays
        All parameters, and all gradients, in one piece.

    Notes
    -----
    A training step needs, in numbers of 4 or 8 bytes and P being H rounded up to whole vectors,
    6 L D (T+1) B P that are kept for backward, T B D H for the gradient between two layers (twice
    from three layers on), as much for each layer but the last if bidirectional, as much again with
    dropout, and the packed weights of the largest layer. With ``save="minimal"`` the first is
    L D (T+1) B P + (L+5) D B P sqrt(T), or somewhat more with few rows. This memory stays for the
    next call with the same T and B; then only outputs are new arrays, and with `out` not even `y`
    and `dx`.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> lstm = pyoptk.LSTM(3, 8, rng=np.random.default_rng(0))
    >>> opt = pyoptk.Adam(lstm.params, lr=0.02)
    >>> x = np.random.default_rng(1).standard_normal((5, 4, 3), dtype=np.float32)
    >>> for _ in range(100):  # teach it to output 0.5 at the last step
    ...     y, (h, c) = lstm.forward(x)
    ...     dy = np.zeros_like(y)
    ...     dy[-1] = y[-1] - 0.5
    ...     dx, _ = lstm.backward(dy)
    ...     opt.step(lstm.grads)
    >>> bool(np.abs(lstm.forward(x)[0][-1] - 0.5).max() < 0.1)
    True

    A long sequence in pieces (truncated backpropagation): the state is carried over, its gradient
    is not.

    >>> state = None
    >>> for piece in np.array_split(x, 2):
    ...     y, state = lstm.forward(piece, state)
    ...     dx, _ = lstm.backward(y - 0.5)
    ...     opt.step(lstm.grads)
    """

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        sizes = (self.input_size, self.hidden_size, self.num_layers)
        return lstm_shapes(*sizes, bias=self.bias, bidirectional=self.bidirectional)

    def forward(
        self,
        x: Array,
        state: State | None = None,
        *,
        lengths: ArrayLike | None = None,
        past_end: str = "zeros",
        train: bool = True,
        out: Array | None = None,
    ) -> tuple[Array, State]:
        """The output for a batch of sequences; remembers what `backward` needs.

        Parameters
        ----------
        x : array [T, B, I], or [B, T, I] if `batch_first`
            Kept, not copied, until `backward`: do not change it in between.
        state : (h, c), arrays [L * D, B, H], optional
            Initial state; zeros by default. Layer by layer, forward before backward direction.
        lengths : integers [B], optional
            Length of each sequence, 0..T, in any order; all T by default. At its end a sequence's
            state stays as it is; the backward direction begins there. In a batch that is sorted by
            length, the time goes with the sum of the lengths, in another in part.
        past_end : {"zeros", "repeat"}
            What the output is past the end: 0, as in PyTorch's packed sequences, or the state that
            stays, as in Keras. With "zeros" the gradient of it is ignored.
        train : bool
            False: nothing is kept, and nothing dropped. A `backward` that is due stays due.
        out : array like `y`, optional
            Gets the output, and is returned. Changed in place; it may be strided, but features must
            be adjacent.

        Returns
        -------
        y : array [T, B, D * H] or [B, T, D * H]
            Output of the last layer; a new array, or `out`.
        (h, c) : arrays [L * D, B, H]
            State after the last step of each sequence; new arrays.

        Raises
        ------
        TypeError, ValueError
            If an argument has another dtype or shape; the message names it.
        """
        if not self._lock.acquire(False):
            self._refuse()
        try:
            if train is not True and train is not False:
                check_switches(train=train)
            purpose = "train" if train else "infer"
            plan = self._kept.get(purpose)
            if plan is None or not plan.serves(x):
                plan = None  # its memory may be used again
                plan = self._new_plan(x, purpose)
            drop = None
            if train and self.dropout:
                drop = (self.dropout, self.seed, self.dropout_calls * self.num_layers % 2**64)
            results = plan.forward(x, state, lengths, past_end, out, drop)
            self._kept[purpose] = plan
            if drop:
                self.__dict__["dropout_calls"] += 1
            return results
        finally:
            self._lock.release()

    @overload
    def backward(
        self,
        dy: Array | None,
        dstate: State | None = None,
        *,
        accumulate: bool = False,
        need_dx: Literal[True] = True,
        out: Array | None = None,
    ) -> tuple[Array, State | None]: ...
    @overload
    def backward(
        self,
        dy: Array | None,
        dstate: State | None = None,
        *,
        accumulate: bool = False,
        need_dx: Literal[False],
        out: None = None,
    ) -> tuple[None, State | None]: ...
    def backward(
        self,
        dy: Array | None,
        dstate: State | None = None,
        *,
        accumulate: bool = False,
        need_dx: bool = True,
        out: Array | None = None,
    ) -> tuple[Array | None, State | None]:
        """The gradients of the last `forward`; changes every array of `grads` in place.

        Parameters
        ----------
        dy : array like `y`, or None for zeros
            Gradient of the loss with respect to `y`.
        dstate : (dh, dc), arrays [L * D, B, H], optional
            Gradients with respect to the returned state; zeros by default.
        accumulate : bool
            Add to `grads` instead of overwriting them.
        need_dx : bool
            False: `dx` is None, and its product is not computed.
        out : array like `x`, optional
            Gets `dx`, and is returned. Changed in place.

        Returns
        -------
        dx : array like `x`
            A new array, or `out`.
        (dh0, dc0) : arrays [L * D, B, H], or None
            Gradients with respect to the state that `forward` was given; new arrays. None if it was
            given none: their product is then not computed.

        Raises
        ------
        RuntimeError
            Without a `forward` that trains before it: each allows one backward.
        TypeError, ValueError
            If an argument has another dtype or shape; the message names it.
        """
        if not self._lock.acquire(False):
            self._refuse()
        try:
            plan = _rnn.check_due(self._kept.get("train"))
            return plan.backward(dy, dstate, accumulate, need_dx, out)
        finally:
            self._lock.release()

    def step(self, x: Array, state: State | None = None) -> tuple[Array, State]:
        """One step of a stream, for inference: ``y, state = lstm.step(x, state)``.

        Reads the weights where they are, once, and keeps nothing: several threads may step at once,
        and a change of a weight counts from the next step on. Sums are added in another order than
        in `forward`. Nothing is dropped.

        Parameters
        ----------
        x : array [B, I]
        state : (h, c), arrays [L, B, H], optional
            Zeros by default.

        Returns
        -------
        y : array [B, H]
        (h, c) : arrays [L, B, H]
            The state after this step. All are new arrays.

        Raises
        ------
        RuntimeError
            If bidirectional: that direction begins at the end.
        TypeError, ValueError
            If an argument has another dtype or shape; the message names it.
        """
        stepper = self._kept.get("stepper")
        if stepper is None:
            if self.bidirectional:
                raise RuntimeError(
                    "step: expected a layer of one direction, got a bidirectional one"
                )
            sizes = (self.input_size, self.hidden_size, self.num_layers)
            stepper = self._kept["stepper"] = LSTMStepper(self.flat_params, sizes, self.bias)
        return stepper.step(x, state)

    def __repr__(self) -> str:
        names = ("num_layers", "bias", "batch_first", "bidirectional", "dropout", "save", "dtype")
        settings = ", ".join(f"{name}={getattr(self, name)}" for name in names)
        return f"LSTM({self.input_size}, {self.hidden_size}, {settings})"

    def _new_plan(self, x: Array, purpose: str) -> _rnn.LSTMPlan:
        """A plan for the shape of `x`, in the place of the last one that is not due any more.

        A call that is refused uses nothing up: one that is due stays until the new one has run.
        """
        T, B = _rnn.steps_and_rows(x, self.input_size, self.batch_first, self.flat_params)
        if purpose in self._kept and not self._kept[purpose].due:
            del self._kept[purpose]
        return _rnn.LSTMPlan(
            self.flat_params,
            self.flat_grads,
            (self.input_size, self.hidden_size, self.num_layers, 1 + self.bidirectional),
            self.bias,
            self.batch_first,
            T,
            B,
            self.save if purpose == "train" else "nothing",
            purpose == "train" and self.dropout > 0,
        )
