"""The kernels in NumPy: the specification, with which every test compares.

Each function has the name, the arguments and the in-place effect of its compiled twin in
`pyoptk.kernels`, and does the same operations in the same order. Constants are computed in double
and rounded once to the dtype of the arrays (`real`); all else is computed in that dtype. The
functions are written by hand and are slow and short on purpose. Their hyper-parameters have no
defaults: those are in `pyoptk.optim`.
"""

from . import arrays as _arrays
from . import dense as _dense
from . import halves as _halves
from . import lstm as _lstm
from . import minimal as _minimal
from . import moments as _moments
from . import noise as _noise
from . import normed as _normed
from . import optim as _optim
from . import rnn as _rnn
from . import scan as _scan
from . import states as _states
from .arrays import *
from .dense import *
from .halves import *
from .lstm import *
from .minimal import *
from .moments import *
from .noise import *
from .normed import *
from .optim import *
from .rnn import *
from .scan import *
from .states import *

__all__: list[str] = []
__all__ += _arrays.__all__
__all__ += _dense.__all__
__all__ += _halves.__all__
__all__ += _minimal.__all__
__all__ += _lstm.__all__
__all__ += _moments.__all__
__all__ += _noise.__all__
__all__ += _normed.__all__
__all__ += _optim.__all__
__all__ += _rnn.__all__
__all__ += _scan.__all__
__all__ += _states.__all__
