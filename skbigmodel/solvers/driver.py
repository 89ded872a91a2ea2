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

    def end(self, tol):
        """What a run that goes on from here need not do again: (theta, status, tol), or ``None``."""
        return (self.theta, self.status, tol) if self.status in ("converged", "stalled") else None


MESSAGES = {
    "converged": "the optimality conditions hold to tol",
    "loss_threshold": "the objective is at or below loss_threshold",
    "early_stopping": "the validation score no longer improves",
    "no_progress": "the training loss no longer improves by tol",
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


EXACT = Rounding()


def rounding_at(state):
    """Rounding errors of sums as large as at the start; infinite for a direct solver, which has none."""
    return Rounding(1e-13 * state.optimality, 1e-15 * abs(state.value))


def is_converged(state, tol, rounding=EXACT):
    """The twin's test on the gradient, and the scale-free one."""
    gap = max(gap_tolerance(tol) * abs(state.value), rounding.value)
    return state.optimality <= max(tol, rounding.optimality) and state.gap <= gap


def judged(state):
    """The parameters that validation rows and callbacks see: a solver may put others in place of theta."""
    return getattr(state, "judged", state.theta)


def minimize(solver, theta, control, state=None, end=None):
    """Run ``solver`` from ``theta``, or on from ``state``, and return a :class:`Result`.

    ``end`` is that of the run that led to the state (see :meth:`Result.end`): one that was at its end before
    and that nobody watches makes no further step, so that of several problems those that are solved stay as
    they are.

    Raises
    ------
    ValueError
        If the objective is not finite any more: the message names the iteration.
    """
    if end is not None and end[2] == control.tol and control.watch is None and control.score is None:
        return Result(end[0], 1, end[1], [float(state.value)], [], float(state.optimality), state)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is met by the tests below
        return _iterate(solver, theta, control, state)


def _iterate(solver, theta, control, state):
    run = Run(solver, theta, control)
    try:
        state = solver.init(theta) if state is None else state
        if np.isnan(state.optimality):
            raise NotFinite
        if run.begin(state):
            while run.result.n_iter < control.max_iter:
                solver.advance(state)
                if run.record(state):
                    break
    except KeyboardInterrupt:
        run.result.status = "interrupted"
    return run.result


class Run:
    """What is noted of a run and when it stops; ``result`` is the :class:`Result`.

    A solver may have ``judge(state, score)``: it then decides itself which iterate is the result, and puts it
    into ``state.kept``, and why to stop because nothing improves any more. ``score`` is ``None`` without
    validation rows. ``remedy`` is its advice to those whose run diverges.
    """

    def __init__(self, solver, theta, control):
        self.solver, self.control = solver, control
        self.started, self.best, self.result = time.monotonic(), -np.inf, Result(theta, 0)

    def begin(self, state):
        """Note the start; whether to go on from there."""
        result, self.rounding = self.result, rounding_at(state)
        result.state, result.optimality = state, state.optimality
        if _reached(self.control.loss_threshold, state.value):
            result.theta, result.status, result.curve = state.theta, "loss_threshold", [state.value]
        return result.status != "loss_threshold"

    def record(self, state):
        """Note an iterate; why to stop now, or ``None`` to go on."""
        result, control = self.result, self.control
        if not np.isfinite(state.value):
            remedy = "Lower learning_rate, scale the features, or use solver='auto'."
            raise ValueError(
                f"the objective is not finite after iteration {result.n_iter + 1} of solver "
                f"{self.solver.name!r}: it diverged. {getattr(self.solver, 'remedy', remedy)}"
            )
        result.n_iter += 1
        result.curve.append(float(state.value))
        score = None if control.score is None else float(control.score(judged(state)))
        if score is not None:
            result.scores.append(score)
        if hasattr(self.solver, "judge"):
            verdict = self.solver.judge(state, score)
            result.theta = state.kept
        else:
            verdict = self._judge(state, score)
        status = _status(state, result, control, verdict, time.monotonic() - self.started)
        if status:
            result.status = status
        return status

    def _judge(self, state, score):
        result, control = self.result, self.control
        quality = -state.value if score is None else score
        # of equal objectives the later iterate: near the optimum it has the smaller gradient
        if quality > self.best or quality == self.best and score is None or result.n_iter == 1:
            self.best, result.theta, result.optimality = quality, state.theta, float(state.optimality)
        if score is not None and len(result.scores) - 1 - int(np.argmax(result.scores)) >= (
            control.n_iter_no_change
        ):
            return "early_stopping"
        if is_converged(state, control.tol, self.rounding):
            if score is None:  # though its value may be above by rounding
                result.theta, result.optimality = state.theta, float(state.optimality)
            return "converged"
        return "stalled" if getattr(state, "stalled", False) else None


def _reached(threshold, value):
    return threshold is not None and value <= threshold


def _status(state, result, control, verdict, seconds):
    """Why to stop now; None to go on. A callback hears of every iteration."""
    if control.watch is not None and control.watch(result.n_iter, state):
        return "callback"
    if _reached(control.loss_threshold, state.value):
        return "loss_threshold"
    if verdict is not None:
        return verdict
    if control.max_time is not None and seconds >= control.max_time:
        return "max_time"
    return None
