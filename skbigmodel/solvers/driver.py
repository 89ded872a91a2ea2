"""The only iteration loop: runs any solver, keeps the history and the best iterate, and decides when to stop.

A solver is a class

- with ``name`` and ``refusal(objective)``, a sentence why it cannot reach the optimum of that objective, or
  ``None``;
- made by ``Solver(objective, settings)``; it must not keep anything that changes: that belongs into the
  state;
- with ``init(theta)``, which evaluates the start and returns a state: a dataclass of arrays and numbers, at
  least ``theta``, ``value`` (the whole objective there), ``optimality`` (largest entry of the smallest
  subgradient) and ``gap`` (an estimate, free of the scale of columns, of how far the value lies above the
  optimum);
- with ``advance(state)``: one iteration. It puts new arrays into the state and never writes into
  ``state.theta``, so that earlier iterates can be kept by reference.

A pickled state, put back with the same data, goes on bit for bit.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..validation import NotFinite


class Settings(NamedTuple):
    """What an estimator hands to a solver."""

    tol: float = 1e-4
    learning_rate: float | str = "auto"
    batch_size: int | None = None
    average: bool | int = False
    seed: int = 0  # of what is random; drawn once per fit


class Control(NamedTuple):
    """When to stop, and whom to tell.

    ``watch(n_iter, state)`` is called after each iteration and stops the run by returning true;
    ``score(theta)`` is the validation score of an iterate, larger is better.
    """

    max_iter: int = 1000
    tol: float = 1e-4
    loss_threshold: float | None = None
    max_time: float | None = None
    watch: Callable | None = None
    score: Callable | None = None
    n_iter_no_change: int = 10


@dataclass
class Result:
    """Outcome of a run; ``status`` is a key of :data:`MESSAGES`."""

    theta: np.ndarray
    n_iter: int
    status: str = "max_iter"
    curve: list = field(default_factory=list)
    scores: list = field(default_factory=list)
    optimality: float = np.inf
    state: object = None


MESSAGES = {
    "converged": "the optimality conditions hold to tol",
    "loss_threshold": "the objective is at or below loss_threshold",
    "early_stopping": "the validation score no longer improves",
    "callback": "a callback asked to stop",
    "stalled": "no further progress is possible in floating-point arithmetic",
    "max_iter": "max_iter was reached",
    "max_time": "max_time was reached",
    "interrupted": "interrupted by the user",
}


def gap_tolerance(tol):
    """Relative gap to the optimum that goes with ``tol``: 1e-9 at its default, never below rounding."""
    return max(1e-5 * tol, 4e-16)


class Rounding(NamedTuple):
    """What cannot be told from zero, of the optimality and of the value: set by the sums at the start."""

    optimality: float = 0.0
    value: float = 0.0


def rounding_at(state):
    """Rounding errors of sums as large as at the start; infinite for a direct solver, which has none."""
    return Rounding(1e-13 * state.optimality, 1e-15 * abs(state.value))


def is_converged(state, tol, rounding=Rounding()):
    """The twin's test on the gradient, and the scale-free one."""
    gap = max(gap_tolerance(tol) * abs(state.value), rounding.value)
    return state.optimality <= max(tol, rounding.optimality) and state.gap <= gap


def minimize(solver, theta, control, state=None):
    """Run ``solver`` from ``theta``, or on from ``state``, and return a :class:`Result`.

    Raises
    ------
    ValueError
        If the objective is not finite any more: the message names the iteration.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is met by the tests below
        return _iterate(solver, theta, control, state)


def _iterate(solver, theta, control, state):
    started, result = time.monotonic(), Result(theta, 0)
    best = -np.inf
    try:
        state = solver.init(theta) if state is None else state
        if np.isnan(state.optimality):
            raise NotFinite
        result.state, result.optimality = state, state.optimality
        rounding = rounding_at(state)
        if _reached(control.loss_threshold, state.value):
            result.theta, result.status, result.curve = state.theta, "loss_threshold", [state.value]
            return result
        while result.n_iter < control.max_iter:
            solver.advance(state)
            if not np.isfinite(state.value):
                raise ValueError(
                    f"the objective is not finite after iteration {result.n_iter + 1} of solver "
                    f"{solver.name!r}: it diverged. Lower learning_rate, scale the features, or use "
                    "solver='auto'."
                )
            result.n_iter += 1
            result.curve.append(float(state.value))
            quality = -state.value if control.score is None else control.score(state.theta)
            if control.score is not None:
                result.scores.append(float(quality))
            # of equal objectives the later iterate: near the optimum it has the smaller gradient
            if quality > best or quality == best and control.score is None or result.n_iter == 1:
                best, result.theta, result.optimality = quality, state.theta, float(state.optimality)
            status = _status(state, result, control, rounding, time.monotonic() - started)
            if status == "converged" and control.score is None:  # though its value may be above by rounding
                result.theta, result.optimality = state.theta, float(state.optimality)
            if status:
                result.status = status
                break
    except KeyboardInterrupt:
        result.status = "interrupted"
    return result


def _reached(threshold, value):
    return threshold is not None and value <= threshold


def _status(state, result, control, rounding, seconds):
    """Why to stop now; None to go on. A callback hears of every iteration."""
    if control.watch is not None and control.watch(result.n_iter, state):
        return "callback"
    if _reached(control.loss_threshold, state.value):
        return "loss_threshold"
    if control.score is not None:
        waited = len(result.scores) - 1 - int(np.argmax(result.scores))
        if waited >= control.n_iter_no_change:
            return "early_stopping"
    if is_converged(state, control.tol, rounding):
        return "converged"
    if getattr(state, "stalled", False):
        return "stalled"
    if control.max_time is not None and seconds >= control.max_time:
        return "max_time"
    return None
