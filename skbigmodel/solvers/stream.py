"""Learning from a stream: one plain pass over the rows of each call, with a state that lives between the
calls.

With a number as learning rate each batch of rows moves the parameters by that rate along its gradient. With
"auto"

1. the coordinates of the steps come from the columns' moments over all rows seen so far;
2. the rate is a share of what the curvature along the gradient and the noise of a batch allow, and falls
   with the steps taken as (1 + t/horizon)^(-3/4), so that the noise averages out.

References
----------
F. Bach and E. Moulines, "Non-strongly-convex smooth stochastic approximation with convergence rate O(1/n)",
NIPS (2013).
"""

from dataclasses import dataclass

import numpy as np

from ..optimizers import Schedule
from .coordinates import Coordinates, column_moments
from .minibatch import State

POWER, HORIZON = 0.75, 100.0  # of the falling rate, in steps
MEMORY = 0.9  # share of the curvature met before that is kept at least


@dataclass
class StreamState(State):
    """What a stream carries from call to call, besides the optimizer's state."""

    rows: int = 0  # seen so far, ...
    weight: float = 0.0  # ... their total weight, ...
    mean: np.ndarray | None = None  # ... and the columns' mean ...
    square: np.ndarray | None = None  # ... and mean square
    curvature: float = 0.0


def stream(solver, state=None, theta=None):
    """One pass of a mini-batch solver over the rows of its objective, those of this call.

    Parameters
    ----------
    solver : MiniBatch
        Made for this call's rows; its settings must be those of the calls before.
    state : StreamState, optional
        What the last call returned; it is left as it is. None starts a stream at ``theta``.

    Returns
    -------
    StreamState
        ``theta`` is the iterate, or the running mean of the iterates with ``settings.average``; ``value``
        the objective of this call's rows before the pass.
    """
    state = _begin(solver, theta) if state is None else StreamState(**vars(state))
    _count_rows(solver.blocks, state)
    state.count += 1
    if solver.auto:
        variance = np.maximum(state.square - state.mean**2, 0.0)
        # while few rows have been seen, their mean may be far from that of the rows to come
        at = Coordinates(solver.objective, (state.mean, variance + state.square / state.rows))
        schedule = Schedule(_rate(solver, state, at), POWER, HORIZON)
    else:
        at, schedule = solver.coordinates, Schedule(solver.settings.learning_rate)
    weight = state.weight / state.rows
    solver.keep_walk(state, solver.walk(state, solver.plan(at, schedule, weight), solver.no_anchor()))
    state.theta = solver.mean_iterate(state)
    return state


def _begin(solver, theta):
    p = solver.objective.n_features
    state = StreamState(theta, np.nan, np.zeros_like(theta), last=theta, moments=solver.no_moments())
    state.total, state.mean, state.square = np.zeros(solver.shape), np.zeros(p), np.zeros(p)
    return state


def _count_rows(blocks, state):
    """Step 1: take the call's rows into the moments."""
    state.rows += blocks.n_rows
    state.weight += blocks.weight
    if state.weight > 0.0:
        mean, variance = column_moments(blocks)
        share = blocks.weight / state.weight
        state.mean = state.mean + share * (mean - state.mean)
        state.square = state.square + share * (variance + mean**2 - state.square)


def _rate(solver, state, at):
    """Step 2: the rate before it falls."""
    objective = solver.objective
    state.value, state.grad = objective.value_grad(state.last)
    g = at.pull(state.grad)
    if getattr(objective.loss, "smooth", True):
        met = at.curvature_near(state.last, g)
        state.curvature = max(met, MEMORY * state.curvature)
    elif state.curvature == 0.0:  # Polyak's step for an optimal value of 0, from a start far from the optimum
        value, grad = objective.value_grad(np.zeros_like(state.last))
        g = at.pull(grad)
        state.curvature = float(g @ g) / abs(value) if g.any() else 0.0
    noise = np.count_nonzero(state.square) / solver.batch_size
    return solver.stream_rate(state.value, state.curvature or 1.0, noise)
