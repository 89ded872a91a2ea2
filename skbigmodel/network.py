"""Networks: where the layers lie in one flat vector, how they start, what they predict, and the objective

    F(theta) = (1/Σs) (Σ s·cross-entropy + alpha/2·Σ W²),     theta = (W₁, W₂, …, b₁, b₂, …)

over all rows. The weight matrices W have the shape (width before, width after), in C order.
"""

import functools
import itertools
from functools import partial

import numpy as np
from scipy.sparse import issparse

from . import passes_network as passes
from ._jit import frozen
from .blocks import ONE
from .encoding import encode, encoded
from .passes_network import Network, Room, Targets
from .rows import as_rows
from .threads import run_tasks

BATCH = 512  # rows whose layers are kept at a time where all rows count
PREDICTED = 1 << 19  # entries of the widest layer that are kept at a time when predicting
SHARD_PRODUCTS = 8_000_000  # of rows and parameters in a part of a batch, enough for a thread of its own
SHARD_ROWS = 100  # at least, in such a part
MAX_SHARDS = 4
LARGE = 1 << 14  # entries of a weight matrix whose products in float32 need BLAS's work space to be touched
TOUCHED = 512  # rows and columns of a product that touches all of it


def make_network(widths, activation, softmax):
    """The :class:`Network` of those layer widths, input and output included."""
    widths = np.asarray(widths, dtype=np.int64)
    weights = np.cumsum(np.append(0, widths[:-1] * widths[1:]))
    biases = weights[-1] + np.cumsum(np.append(0, widths[1:]))
    return Network(activation, bool(softmax), frozen(widths), frozen(weights), frozen(biases))


def make_room(net, batch, dtype, sparse, n_params):
    """Work space for batches of that many rows and steps of that many parameters."""
    total = batch * int(net.widths[1:].sum())
    return Room(
        np.empty((batch, 0 if sparse else net.widths[0]), dtype),
        np.empty(total, dtype),
        np.empty(total, dtype),
        np.empty(batch * int(net.widths[1:-1].max(initial=0)), dtype),
        *(np.empty(n_params, dtype) for _ in range(2)),
    )


def pack(coefs, intercepts, dtype):
    """The flat vector of weight matrices and biases."""
    parts = [np.asarray(array, dtype).ravel() for array in (*coefs, *intercepts)]
    return np.concatenate(parts)


def unpack(net, theta):
    """Lists of the weight matrices and the biases, views of ``theta``."""
    shapes = list(itertools.pairwise(net.widths.tolist()))
    ends = itertools.pairwise(net.weights.tolist())
    coefs = [theta[a:b].reshape(shape) for (a, b), shape in zip(ends, shapes, strict=True)]
    return coefs, [theta[a:b] for a, b in itertools.pairwise(net.biases.tolist())]


def _uniform(rng, variance, shape):
    bound = np.sqrt(3.0 * variance)
    return rng.uniform(-bound, bound, shape)


def _normal(rng, variance, shape):
    return rng.normal(scale=np.sqrt(variance), size=shape)


# name -> (variance of a weight, distribution), for a layer of so many inputs and outputs
INITS = {
    f"{scheme}_{name}": (variance, draw)
    for scheme, variance in {
        "glorot": lambda fan_in, fan_out: 2.0 / (fan_in + fan_out),
        "he": lambda fan_in, fan_out: 2.0 / fan_in,
        "lecun": lambda fan_in, fan_out: 1.0 / fan_in,
    }.items()
    for name, draw in {"uniform": _uniform, "normal": _normal}.items()
}


def start(net, init, rng, dtype):
    """Random parameters; biases start at 0 but for ``"glorot_uniform"``, which treats them as weights.

    With that, numbers are drawn as scikit-learn's MLPClassifier draws them. ``"ntp"`` draws weights as
    ``"lecun_normal"`` does and biases of variance 1; the last layer is 0.
    """
    if init == "ntp":
        shapes = list(itertools.pairwise(net.widths.tolist()))[:-1]
        coefs = [_normal(rng, 1.0 / shape[0], shape) for shape in shapes]
        intercepts = [_normal(rng, 1.0, shape[1]) for shape in shapes]
        before, last = net.widths[-2:].tolist()
        return pack([*coefs, np.zeros((before, last))], [*intercepts, np.zeros(last)], dtype)
    variance, draw = INITS[init]
    share = getattr(net.activation, "glorot_share", 1.0) if init.startswith("glorot") else 1.0
    coefs, intercepts = [], []
    for shape in itertools.pairwise(net.widths.tolist()):
        v = share * variance(*shape)
        coefs.append(draw(rng, v, shape))
        intercepts.append(draw(rng, v, shape[1]) if init == "glorot_uniform" else np.zeros(shape[1]))
    return pack(coefs, intercepts, dtype)


def raw_outputs(X, coefs, intercepts, activation, encoder=None):
    """Raw outputs (n_rows, n_outputs) of rows in memory, a run of rows at a time."""
    size = max(1, PREDICTED // max(len(coefs[0]), *(b.size for b in intercepts)))
    runs = (X[k : k + size] for k in range(0, X.shape[0], size))
    if encoder is not None:
        runs = (encoded_rows(run, encoder, coefs[0].dtype) for run in runs)
    parts = [_raw_outputs(run, coefs, intercepts, activation) for run in runs]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def encoded_rows(X, encoder, dtype):
    """What rows become by an encoder, an array of that dtype or a sparse matrix."""
    rows = encoded(as_rows(X), encoder)
    if issparse(X):
        return type(X)((rows.data.astype(dtype), X.indices, X.indptr), shape=X.shape)
    out = np.empty((X.shape[0], encoder.starts[-1]), dtype)
    encode(rows.X, np.arange(len(out)), encoder, out)
    return out


def _raw_outputs(A, coefs, intercepts, activation):
    for W, b in zip(coefs[:-1], intercepts[:-1], strict=True):
        A = np.ascontiguousarray(A @ W)
        passes.activate(A, frozen(b), activation)
    return A @ coefs[-1] + intercepts[-1]


def prepare_products(net, dtype, n_threads):
    """See to it that BLAS multiplies matrices of a large network at full speed from the start."""
    if dtype == np.float32 and np.diff(net.weights).max() >= LARGE:
        _touch_work_space(n_threads)


@functools.cache
def _touch_work_space(n_threads):
    """Once in a process: products that are larger than any to come, on as many threads as those.

    OpenBLAS fetches ahead, beyond the matrices it has packed. Where that memory has never been written to,
    each attempt fails slowly: float32 products of 256 x 256 matrices take 3.7 times as long.
    """
    A = np.ones((TOUCHED, TOUCHED), np.float32)
    run_tasks(lambda k: passes.multiply_matrices(A, A, np.empty_like(A)), n_threads, n_threads)
    A @ A  # NumPy has a BLAS of its own


class NetworkObjective:
    """The function that a network minimises over the rows of ``blocks``.

    Parameters
    ----------
    blocks : a source of blocks (see ``blocks``)
        Its y is the ``Y`` of :class:`~skbigmodel.passes_network.Targets`.
    net : Network
    alpha : float
        Strength of the penalty.
    smoothing : float
        Share of each target that is spread over all classes evenly.
    """

    def __init__(self, blocks, net, alpha, smoothing=0.0):
        self.blocks, self.net, self.alpha, self.smoothing = blocks, net, alpha, smoothing
        self.n_params = int(net.biases[-1])

    def targets(self, rows=slice(None)):
        """Targets and weights of some rows."""
        s = ONE if self.blocks.s is None else frozen(self.blocks.s[rows])
        return Targets(frozen(self.blocks.y[rows]), s, float(self.smoothing))

    def shards(self, batch):
        """Parts into which a batch of that many rows is cut for threads: a function of the shapes alone."""
        affordable = batch * self.n_params // SHARD_PRODUCTS
        return int(max(1, min(MAX_SHARDS, affordable, batch // SHARD_ROWS)))

    def value_grad(self, theta):
        """The objective and its gradient, in the width of ``theta``."""
        block_sum = partial(_add_gradient, self.net, self.smoothing, self.blocks.sparse, theta)
        value, grad = self.blocks.total(block_sum, self.n_params)
        w, weight = theta[: self.net.weights[-1]], self.blocks.weight
        grad[: w.size] += self.alpha * w
        return (value + 0.5 * self.alpha * float(w @ w)) / weight, grad / weight


def _add_gradient(net, smoothing, sparse, theta, block, out):
    n, targets = len(block.y), Targets(block.y, block.s, float(smoothing))
    room = make_room(net, min(BATCH, n), theta.dtype, sparse, int(net.biases[-1]))
    return passes.add_gradient(net, block.rows, targets, 0, n, theta, room, out)
