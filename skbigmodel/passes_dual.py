"""Jitted sweeps of coordinate descent over the dual variables of a margin loss, one variable a row.

With t = ±1 for the class of a row, m its share of the total weight, and ``cap`` and ``bend`` of the loss,

    maximise Σ a - bend/2·Σ a²/m - l2/2·‖w‖²    over 0 <= a <= cap·m,    w = (1/l2)·Σ a·t·x

and likewise for an intercept with a penalty.
"""

from typing import NamedTuple

import numpy as np

from ._jit import jit
from .losses import derivative
from .passes_stochastic import mix
from .rows import add, dot, fetch, n_rows, norm2

# Sweep.bounds: largest and smallest projected gradient of the last sweep, and of the one before, beyond which
# a variable at its bound is left alone
HIGH, LOW, FAR_ABOVE, FAR_BELOW = range(4)
AHEAD = 2  # rows that are loaded before it is their turn: in a random order, no processor foresees them


class Margin(NamedTuple):
    """What stays fixed."""

    cap: float
    bend: float
    scale: float  # 1/l2
    scale_b: float  # the same for the intercept; 0 without one
    weight: float  # total, of the rows


class Sweep(NamedTuple):
    """What a sweep over a block changes: entries are those of the block's rows."""

    a: np.ndarray  # dual variables
    order: np.ndarray  # rows, those that take part first
    active: np.ndarray  # (1,) their number
    theta: np.ndarray  # coefficients, and an intercept where there is one
    bounds: np.ndarray  # (4,)


@jit
def curvatures(rows, s, margin, diag):
    """diag[i] = second derivative of the dual objective in variable i."""
    for i in range(n_rows(rows)):
        m = (s[i] if s.shape[0] > 1 else s[0]) / margin.weight
        diag[i] = margin.scale * norm2(rows, i) + margin.scale_b
        if m > 0.0:
            diag[i] += margin.bend / m


@jit
def shuffle(order, n, key):
    """Permute the first n entries (Fisher and Yates)."""
    for i in range(n - 1, 0, -1):
        j = np.int64(mix(np.uint64(key) ^ mix(np.uint64(i))) % np.uint64(i + 1))
        order[i], order[j] = order[j], order[i]


@jit
def sweep(rows, y, s, margin, diag, state, key):
    """Optimise one variable after the other, in an order shuffled by ``key``.

    1. The derivative of the dual objective, with a minus.
    2. Variables that are at a bound, and by the last sweep's bounds will stay there, drop out.
    3. The step to the optimum or the bound.
    """
    a, order, theta, bounds = state.a, state.order, state.theta, state.bounds
    shuffle(order, state.active[0], key)
    k = 0
    while k < state.active[0]:
        i = order[k]
        fetch(rows, order[min(k + AHEAD, order.shape[0] - 1)])
        m = (s[i] if s.shape[0] > 1 else s[0]) / margin.weight
        sign, upper = 2.0 * y[i] - 1.0, margin.cap * m
        slope = sign * dot(rows, i, theta) - 1.0  # 1
        if margin.scale_b > 0.0:
            slope += sign * theta[-1]
        if m > 0.0:
            slope += margin.bend * a[i] / m
        low, high = a[i] <= 0.0, a[i] >= upper
        stays = low and slope > bounds[FAR_ABOVE] or high and slope < bounds[FAR_BELOW]
        if stays or m <= 0.0 or diag[i] <= 0.0:
            if m > 0.0 and diag[i] <= 0.0:  # a row of zeros costs what it costs
                a[i] = upper
            state.active[0] -= 1  # 2
            order[k], order[state.active[0]] = order[state.active[0]], i
            continue
        k += 1
        projected = min(slope, 0.0) if low else max(slope, 0.0) if high else slope
        bounds[HIGH], bounds[LOW] = max(bounds[HIGH], projected), min(bounds[LOW], projected)
        if projected != 0.0:  # 3
            before = a[i]
            a[i] = min(max(before - slope / diag[i], 0.0), upper)
            change = sign * (a[i] - before)
            if change != 0.0:
                add(rows, i, margin.scale * change, theta)
                theta[-1] += margin.scale_b * change


@jit
def implied(y, s, loss, margin, z):
    """z = the dual variables that raw predictions ``z`` imply: the slopes of the loss, without their sign."""
    for i in range(z.shape[0]):
        m = (s[i] if s.shape[0] > 1 else s[0]) / margin.weight
        z[i] = m * abs(derivative(loss, y[i], z[i]))
