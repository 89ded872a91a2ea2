"""Jitted passes of a network over batches of rows: forward, backward, and epochs of steps.

All parameters lie in one flat vector: the weight matrices W (width before, width after) of the layers one
after the other, then their biases. What a layer makes of a batch lies in flat room, too, a C-ordered
matrix per layer, so that every matrix product is one call of BLAS without a copy; all else is fused into a
few loops.
"""

from typing import NamedTuple

import numpy as np

from ._jit import called, exp, jit, log1p_unit, part
from .activations import backward, forward
from .optimizers import step
from .passes_parameters import pull, spread
from .passes_stochastic import mix
from .rows import product, times, transposed_times

LEAST = -69.0  # exponent of probabilities that count: e**-69 is 1e-30, no subnormal number in float32


class Network(NamedTuple):
    """What the layers are, and where they lie in the flat vector of parameters."""

    activation: object  # of the hidden layers
    softmax: bool  # one class of many, or else a logistic unit for each column of the targets
    widths: np.ndarray  # (n_layers + 1,) of the input, the hidden layers and the output
    weights: np.ndarray  # (n_layers + 1,) starts of the weight matrices; the last entry is their total size
    biases: np.ndarray  # (n_layers + 1,) starts of the biases


class Targets(NamedTuple):
    """What the rows should come out as."""

    Y: np.ndarray  # (n_rows, 1) indices of classes with softmax, else (n_rows, n_outputs) of zeros and ones
    s: np.ndarray  # (n_rows,) weights, or (1,) for all alike
    smoothing: float  # share of each target that is spread over all classes evenly


class Noise(NamedTuple):
    """Hidden units that are left out of a step: a share of them, by a key that changes with the step."""

    dropout: float
    key: int


class Room(NamedTuple):
    """Work space for a batch."""

    X: np.ndarray  # (batch, n_features), or empty for sparse rows
    A: np.ndarray  # flat: outputs of the layers, layer k from batch·(sum of the widths of those before)
    D: np.ndarray  # likewise: slopes of the activations, then derivatives of the loss in the raw inputs
    E: np.ndarray  # flat: one hidden layer
    grad: np.ndarray  # (n_params,)
    theta: np.ndarray  # (n_params,) parameters of the layers, where steps move others


class Plan(NamedTuple):
    """What stays fixed in a run of steps."""

    optimizer: object
    form: object  # of the parameters: see passes_parameters
    alpha: float
    weight_decay: float
    clip_norm: float  # infinite for none
    dropout: float
    batch_size: int


class Walk(NamedTuple):
    """What steps change."""

    theta: np.ndarray  # (n_params,)
    moments: np.ndarray  # (n_moments, n_params) of the optimizer
    clock: np.ndarray  # steps taken so far, and the key of the noise


@called
def layer(net, k, n, flat, batch):
    """The (n, width) matrix of layer k in flat room for ``batch`` rows; 0 is the first hidden layer."""
    start = 0
    for before in range(k):
        start += batch * net.widths[before + 1]
    width = net.widths[k + 1]
    return flat[start : start + n * width].reshape(n, width)


@called
def matrix(net, k, flat):
    """Weights of layer k, or their gradient."""
    start, rows, columns = net.weights[k], net.widths[k], net.widths[k + 1]
    return flat[start : start + rows * columns].reshape(rows, columns)


@jit
def multiply_matrices(A, B, out):
    """out = A·B, for those who are not compiled."""
    product(A, B, out)


@jit
def activate(Z, b, activation):
    """Z = forward(Z + b) in place."""
    for i in range(Z.shape[0]):
        for j in range(Z.shape[1]):
            Z[i, j] = forward(activation, Z[i, j] + b[j])


@jit
def activate_with_slopes(Z, b, activation, D):
    """Z = forward(Z + b) in place, and D = the derivatives."""
    for i in range(Z.shape[0]):
        for j in range(Z.shape[1]):
            z = Z[i, j] + b[j]
            a = forward(activation, z)
            Z[i, j] = a
            D[i, j] = backward(activation, z, a)


@called
def drop(A, D, share, key):
    """Set a share of the outputs to 0 and scale up the others, by a key."""
    scale, bar = A.dtype.type(1.0 / (1.0 - share)), np.uint64(share * 18446744073709549568.0)
    first = mix(np.uint64(key))
    for i in range(A.shape[0]):
        for j in range(A.shape[1]):
            kept = mix(first + np.uint64(i * A.shape[1] + j)) >= bar
            A[i, j] = A[i, j] * scale if kept else 0.0
            D[i, j] = D[i, j] * scale if kept else 0.0


@jit
def softmax_loss(Z, b, targets, order, scale, D):
    """D = scale·s·(softmax - target) for raw outputs Z + b; return scale·Σ s·cross-entropy."""
    total, K = 0.0, Z.shape[1]
    even = targets.smoothing / K
    for i in range(Z.shape[0]):
        k = targets.Y[order[i], 0]
        weight = scale * (targets.s[order[i]] if targets.s.size > 1 else targets.s[0])
        top, mass, mean = Z[i, 0] + b[0], 0.0, 0.0
        for j in range(K):
            Z[i, j] += b[j]
        for j in range(K):
            top = max(top, Z[i, j])
        for j in range(K):
            z = Z[i, j] - top
            D[i, j] = exp(LEAST if z < LEAST else z)  # NaN stays NaN
        for j in range(K):  # apart from the loop that stores: see passes_linear
            mass += D[i, j]
            mean += even * (top - Z[i, j])
        total += weight * (np.log(mass) + (1.0 - targets.smoothing) * (top - Z[i, k]) + mean)
        for j in range(K):
            D[i, j] = weight * (D[i, j] / mass - even)
        D[i, k] -= weight * (1.0 - targets.smoothing)
    return total


@jit
def logistic_loss(Z, b, targets, order, scale, D):
    """D = scale·s·(logistic - target) for raw outputs Z + b; return scale·Σ s·binary cross-entropy."""
    total, even = 0.0, targets.smoothing
    for i in range(Z.shape[0]):
        for j in range(Z.shape[1]):
            Z[i, j] += b[j]
            D[i, j] = (1.0 - even) * targets.Y[order[i], j] + 0.5 * even
    values, slopes = Z.reshape(-1), D.reshape(-1)
    for k in range(values.size):  # over all at once: it vectorises where there is one output, too
        z, y = values[k], slopes[k]
        e = exp(LEAST if -abs(z) < LEAST else -abs(z))
        slopes[k] = (1.0 if z >= 0.0 else e) / (1.0 + e) - y
        values[k] = log1p_unit(e) + z * ((1.0 if z > 0.0 else 0.0) - y)
    for i in range(Z.shape[0]):
        weight = scale * (targets.s[order[i]] if targets.s.size > 1 else targets.s[0])
        for j in range(Z.shape[1]):
            D[i, j] *= weight
        for j in range(Z.shape[1]):
            total += weight * Z[i, j]
    return total


@called
def column_sums(D, out):
    """out = sums over the rows of D, four at a time: each load and store of ``out`` serves four."""
    whole = D.shape[0] - D.shape[0] % 4
    out[:] = 0.0
    for i in range(0, whole, 4):
        for j in range(out.size):
            out[j] += (D[i, j] + D[i + 1, j]) + (D[i + 2, j] + D[i + 3, j])
    for i in range(whole, D.shape[0]):
        for j in range(out.size):
            out[j] += D[i, j]


@called
def pass_back(D, W, E, slopes):
    """slopes *= D·Wᵀ, the derivatives in the outputs of the layer before; E is room for the product."""
    if W.shape[1] == 1:  # BLAS takes long for one output
        w = W.reshape(-1)
        for i in range(D.shape[0]):
            for j in range(w.size):
                slopes[i, j] *= D[i, 0] * w[j]
        return
    product(D, W.T, E)
    for i in range(E.shape[0]):
        for j in range(E.shape[1]):
            slopes[i, j] *= E[i, j]


@part
def run_forward(net, rows, order, theta, room, noise):
    """Outputs of the hidden layers with their slopes, and raw outputs of the last layer without its bias."""
    n, batch, last = order.size, room.X.shape[0], net.widths.size - 2
    for k in range(last + 1):
        W, Z = matrix(net, k, theta), layer(net, k, n, room.A, batch)
        if k == 0:
            times(rows, order, W, room.X[:n], Z)
        else:
            product(layer(net, k - 1, n, room.A, batch), W, Z)
        if k < last:
            D = layer(net, k, n, room.D, batch)
            activate_with_slopes(Z, theta[net.biases[k] : net.biases[k + 1]], net.activation, D)
            if noise.dropout > 0.0:
                drop(Z, D, noise.dropout, noise.key + (k << 40))


@part
def run_backward(net, rows, order, theta, room):
    """Gradient of the loss from its derivatives in the raw outputs, the last layer of ``room.D``."""
    n, batch, last = order.size, room.X.shape[0], net.widths.size - 2
    for k in range(last, -1, -1):
        D, G = layer(net, k, n, room.D, batch), matrix(net, k, room.grad)
        column_sums(D, room.grad[net.biases[k] : net.biases[k + 1]])
        if k == 0:
            transposed_times(rows, order, D, room.X[:n], G)
            continue
        before, E = net.widths[k], room.E[: n * net.widths[k]]
        product(layer(net, k - 1, n, room.A, batch).T, D, G)
        slopes = layer(net, k - 1, n, room.D, batch)
        pass_back(D, matrix(net, k, theta), E.reshape(n, before), slopes)


@part
def batch_gradient(net, rows, targets, order, theta, room, noise, scale):
    """room.grad = gradient of scale·Σ s·loss over the rows ``order``; return that sum."""
    run_forward(net, rows, order, theta, room, noise)
    n, batch, last = order.size, room.X.shape[0], net.widths.size - 2
    Z, D = layer(net, last, n, room.A, batch), layer(net, last, n, room.D, batch)
    bias = theta[net.biases[last] : net.biases[last + 1]]
    if net.softmax:
        total = softmax_loss(Z, bias, targets, order, scale, D)
    else:
        total = logistic_loss(Z, bias, targets, order, scale, D)
    run_backward(net, rows, order, theta, room)
    return total


@jit
def add_gradient(net, rows, targets, start, stop, theta, room, out):
    """Add the gradient of Σ s·loss over rows start to stop to ``out``; return the sum."""
    total, batch = 0.0, room.X.shape[0]
    for first in range(start, stop, batch):
        order = np.arange(first, min(first + batch, stop))
        total += batch_gradient(net, rows, targets, order, theta, room, Noise(0.0, 0), 1.0)
        for j in range(out.size):
            out[j] += room.grad[j]
    return total


@jit
def shard_gradient(net, rows, targets, order, theta, room, noise, scale):
    """As ``batch_gradient``, for a part of a batch that is on a thread of its own."""
    return batch_gradient(net, rows, targets, order, theta, room, noise, scale)


@jit
def weight_of(targets, order):
    """Sum of the weights of the rows ``order``."""
    if targets.s.size == 1:
        return targets.s[0] * order.size
    total = 0.0
    for i in range(order.size):
        total += targets.s[order[i]]
    return total


@jit
def penalised_step(net, plan, walk, layers, grad, rate, weight):
    """Add the penalty to the gradient and take a step; return the penalty's value before it.

    ``layers`` are the parameters of the layers that ``walk.theta`` stands for.
    """
    n_weights, number, theta = net.biases[0], grad.dtype.type, walk.theta
    square, l2 = 0.0, number(plan.alpha / weight)
    for j in range(n_weights):
        square += layers[j] * layers[j]
    for j in range(n_weights):
        grad[j] += l2 * layers[j]
    if plan.clip_norm < np.inf:
        norm = 0.0
        for j in range(net.biases[-1]):
            norm += grad[j] * grad[j]
        shrink = number(min(1.0, plan.clip_norm / np.sqrt(max(norm, 1e-300))))
        for j in range(net.biases[-1]):
            grad[j] *= shrink
    pull(plan.form, net, theta, grad)
    if plan.weight_decay > 0.0:
        keep = number(1.0 - rate * plan.weight_decay)
        for j in range(n_weights):
            theta[j] *= keep
    walk.clock[0] += 1
    step(plan.optimizer, theta, grad, walk.moments, walk.clock[0], rate)
    return 0.5 * plan.alpha / weight * square


@jit
def shard_step(net, plan, walk, layers, grads, rate, weight):
    """As ``penalised_step`` with the sum of the rows of ``grads`` as gradient; the first is overwritten."""
    grad = grads[0]
    for k in range(1, grads.shape[0]):
        for j in range(net.biases[-1]):
            grad[j] += grads[k, j]
    return penalised_step(net, plan, walk, layers, grad, rate, weight)


@jit
def run_steps(net, rows, targets, order, walk, plan, room, rates):
    """A step for each batch of ``order`` at its rate; the sum of the batches' losses times their sizes."""
    total, clock = 0.0, walk.clock
    for k in range(rates.size):
        batch = order[k * plan.batch_size : min((k + 1) * plan.batch_size, order.size)]
        weight, noise = weight_of(targets, batch), Noise(plan.dropout, clock[1] + (clock[0] << 20))
        layers = spread(plan.form, net, walk.theta, room.theta)
        loss = batch_gradient(net, rows, targets, batch, layers, room, noise, 1.0 / weight)
        loss += penalised_step(net, plan, walk, layers, room.grad, rates[k], weight)
        total += loss * batch.size
    return total
