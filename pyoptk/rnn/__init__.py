"""Recurrent layers.

`cells` has the layers that users see, `layer` their base with the calls of both passes, `weights`
names and first values of the parameters, `convert` those of other libraries.
"""

from .cells import LSTM, RNN

__all__ = ["LSTM", "RNN"]
