"""Recurrent layers.

`lstm` has the passes, `layer` what does not depend on the cell, `weights` names and first values of
the parameters, `convert` those of other libraries.
"""

from .lstm import LSTM

__all__ = ["LSTM"]
