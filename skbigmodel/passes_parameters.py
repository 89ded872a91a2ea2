"""Forms of a network's parameters: how those that steps move make up those of the layers.

A form has ``spread(net, theta, out)``, the flat vector of the layers for parameters ``theta`` of steps, for
which ``out`` is room, ``pull(net, theta, grad)``, which turns the gradient in the former into that in the
latter, in place, and ``gather(net, layers)``, a theta for given layers. ``net`` is a
:class:`~skbigmodel.passes_network.Network`; what theta has beyond the layers' parameters lies at its end.
"""

from typing import NamedTuple

import numpy as np

from ._jit import jit, method


@method
def spread(self, net, theta, out):
    """Parameters of the layers."""
    return self.spread(net, theta, out)


@method
def pull(self, net, theta, grad):
    """Make the gradient in the layers' parameters one in ``theta``, in place."""
    return self.pull(net, theta, grad)


class Plain(NamedTuple):
    """Both are the same."""

    def spread(self, net, theta, out):
        return theta

    def pull(self, net, theta, grad):
        pass

    def gather(self, net, layers):
        return layers


class Scaled(NamedTuple):
    """Weights times 1/√(units before), biases times a factor, and a scale for each input of the network.

    With an optimizer such as Adam, whose steps have one length, the factors set the length of steps of each
    kind: the neural tangent parametrisation. The scales, last in theta, multiply the rows of the first
    weight matrix.

    References
    ----------
    D. Holzmüller, L. Grinsztajn and I. Steinwart, "Better by default: strong pre-tuned MLPs and boosted trees
    on tabular data", NeurIPS (2024).
    """

    biases: float  # factor of the biases
    scales: float  # factor of the scales

    def spread(self, net, theta, out):
        copy_scaled(net, theta, out, self.biases)
        number, n = out.dtype.type, net.widths[0]
        W, scales = out[: net.weights[1]].reshape(n, net.widths[1]), theta[theta.size - n :]
        for j in range(n):
            scale = number(self.scales) * scales[j]
            for k in range(W.shape[1]):
                W[j, k] *= scale
        return out

    def pull(self, net, theta, grad):
        """Turn the gradient in the layers' parameters into that in ``theta``, in place."""
        number, n, size = grad.dtype.type, net.widths[0], net.weights[1]
        W, G = theta[:size].reshape(n, net.widths[1]), grad[:size].reshape(n, net.widths[1])
        scales, slopes = theta[theta.size - n :], grad[theta.size - n :]
        factor, root = number(self.scales), number(1.0 / np.sqrt(n))
        for j in range(n):
            total = number(0.0)
            for k in range(W.shape[1]):
                total += G[j, k] * W[j, k]
            slopes[j] = factor * root * total
        for j in range(n):
            scale = factor * scales[j]
            for k in range(W.shape[1]):
                G[j, k] *= scale
        copy_scaled(net, grad, grad, self.biases)

    def gather(self, net, layers):
        theta = np.append(layers, np.full(net.widths[0], 1.0 / self.scales)).astype(layers.dtype)
        for layer, width in enumerate(net.widths[:-1]):
            theta[net.weights[layer] : net.weights[layer + 1]] *= np.sqrt(width)
        theta[net.biases[0] : net.biases[-1]] /= self.biases
        return theta


@jit
def copy_scaled(net, values, out, biases):
    """out = values, weights times 1/√(units before) and biases times their factor; the same array may be."""
    number = out.dtype.type
    for layer in range(net.widths.size - 1):
        factor = number(1.0 / np.sqrt(net.widths[layer]))
        start, stop = net.weights[layer], net.weights[layer + 1]
        multiply(factor, values[start:stop], out[start:stop])
    start, stop = net.biases[0], net.biases[-1]
    multiply(number(biases), values[start:stop], out[start:stop])


@jit
def multiply(factor, values, out):
    """out = factor·values."""
    for k in range(out.size):
        out[k] = factor * values[k]


@jit
def spread_out(form, net, theta, out):
    """``spread``, for those who are not compiled."""
    return spread(form, net, theta, out)
