"""Recurrent layers.

`cells` has the layers that users see, `layer` their base with the calls of both passes, `weights`
names and first values of the parameters, `convert` those of other libraries. `minimal` has layers
whose gates do not see the state.
"""

from .cells import GRU, LSTM, RNN

__all__ = ["GRU", "LSTM", "RNN"]
