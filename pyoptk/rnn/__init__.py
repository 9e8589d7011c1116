"""Recurrent layers. `lstm` has the layer, `weights` its arrays and their first values."""

from .lstm import LSTM

__all__ = ["LSTM"]
