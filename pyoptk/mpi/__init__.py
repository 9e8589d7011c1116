"""Training on several processes or machines: `Sharded`, an optimizer of which each rank has a part.

Needs mpi4py and an MPI library (``pip install 'pyoptk[mpi]' mpich``); `import pyoptk` does not load
it. The files: sharded.py has the class; exchange.py adds; transport.py sends and gathers; memory.py
has what ranks of one machine share; duplicates.py the communicators; shards.py says who owns what;
states.py divides states; arguments.py checks; files.py writes checkpoints.

The sum. A step takes the gradients of `micro` micro-batches, whatever the number of ranks; each
rank brings some of them, `Sharded.mine`. They are leaves of one fixed binary tree. A rank adds up
those parts of the tree that consist of its own leaves, and sends these sums, piece by piece, to the
owners of the pieces, who add the rest of the tree. So every addition has the same operands for any
number of ranks, which no reduction of MPI promises. What travels is what a reduce-scatter moves, if
the ranks and `micro` are powers of two; else some ranks have two sums or more.

The shards. The parameters are cut into buckets, each bucket into a shard for every rank. An
ordinary optimizer steps the shards of a rank: one-dimensional views of the parameters, as if each
were a parameter of its own. States exist for them alone (ZeRO, stage 1, Rajbhandari et al. 2020). A
second optimizer, `_shadow`, has parameters without elements under the names of the real ones: it
knows the hyper-parameters, counts the steps, and words messages and checkpoints.

The step. A bucket is sent as soon as its gradients are there, the last parameters first, as
backward passes deliver them; two are on their way at a time. Ranks of one machine read
what they need from each other in `step`. Sums of squares over blocks of 4,096
elements are gathered and added in the order of the model, for the norm. Each rank steps its shard;
then the parameters are gathered.

Failure. A rank that raises waits for no other, except in `step` on one machine, where the others
may still be writing to its memory. The others wait for it; with ``mpiexec -n 4 python -m mpi4py
train.py`` an exception ends all ranks, with its message. If one rank leaves a `step`, a `save` or
the beginning of `averaged` by an exception while ranks exchange data, and catches it, its `Sharded`
is unusable: the next collective call raises RuntimeError.
"""

from .files import save
from .memory import shared
from .sharded import Sharded

__all__ = ["Sharded", "save", "shared"]
