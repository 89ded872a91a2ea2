"""Gradient descent with the whole gradient.

With a number as learning rate it is the textbook's loop, theta ← theta - learning_rate·∇F(theta). With
"auto" it finds its own steps, in coordinates in which the columns' units do not matter:

1. The length of a step is that of Barzilai and Borwein: the inverse of the curvature that the last step met,
   of its two estimates the shorter where they differ much (which steers towards the directions that are
   still unsolved).
2. It is shortened until the objective falls below the largest of its last few values.

References
----------
J. Barzilai and J. M. Borwein, "Two-point step size gradient methods", IMA J. Numer. Anal. 8 (1988);
L. Grippo, F. Lampariello and S. Lucidi, "A nonmonotone line search technique for Newton's method", SIAM J.
Numer. Anal. 23 (1986); G. Frassoldati, L. Zanni and G. Zanghirati, "New adaptive stepsize selections in
gradient methods", J. Ind. Manag. Optim. 4 (2008).
"""

from dataclasses import dataclass, field

import numpy as np

from .certificate import Certificate, Iterate, change_of_value
from .line_search import backtrack

LOOK_BACK = 5  # values among which the largest is to be undercut
SHORT = 0.5  # ratio of the two estimates below which the shorter one is taken


@dataclass
class State(Iterate):
    """Iterate, length of the next step, and what the step rule remembers."""

    step: float = 1.0
    short_steps: list = field(default_factory=list)
    values: list = field(default_factory=list)


def smooth_refusal(objective):
    """Why a method that needs gradients throughout cannot reach the optimum, or ``None``."""
    if not getattr(objective.loss, "smooth", True):
        return "the loss has kinks"
    return None if objective.penalty.smooth else "it takes no l1 penalty and no positive=True"


class GradientDescent:
    """Smooth objectives, one gradient of all rows per step."""

    name = "gd"
    State = State
    refusal = staticmethod(smooth_refusal)

    def __init__(self, objective, settings):
        self.objective, self.settings = objective, settings
        self.certificate = Certificate(objective, settings)

    def init(self, theta):
        """Evaluate the start."""
        value, grad = self.objective.value_grad(theta)
        state = State(theta, value, grad)
        self.certificate.judge(state)
        return state

    def advance(self, state):
        """One step."""
        state.count += 1
        rate = self.settings.learning_rate
        if rate == "auto":
            self._advance_by_search(state)
            return
        with np.errstate(over="ignore", invalid="ignore"):
            state.theta = state.theta - rate * state.grad
            state.value, state.grad = self.objective.value_grad(state.theta)
        self.certificate.judge(state)

    def _advance_by_search(self, state):
        at = self.certificate.coordinates
        g = at.pull(state.grad)
        squared = float(g @ g)
        state.values = [*state.values[1 - LOOK_BACK :], state.value]

        def trial(t):
            theta = state.theta - t * at.leave(g)
            value, grad = self.objective.value_grad(theta)
            rise = change_of_value(self.objective, state, theta, value, grad)
            return rise, (theta, value, grad)

        found = backtrack(trial, -squared, max(state.values) - state.value, state.step)
        if found is None:
            state.stalled = True
            return
        t, (theta, value, grad) = found
        self._learn(state, -t * g, at.pull(grad) - g)
        state.theta, state.value, state.grad = theta, value, grad
        pulled = at.pull(grad)
        self.certificate.judge(state, 0.5 * min([state.step, *state.short_steps]) * float(pulled @ pulled))

    @staticmethod
    def _learn(state, step, change):
        """Step 1: the next length from the last step and the change of the gradient along it."""
        curvature = float(step @ change)
        if curvature <= 0.0:
            state.step *= 2.0
            return
        long, short = float(step @ step) / curvature, curvature / float(change @ change)
        state.short_steps = [*state.short_steps[-4:], short]
        state.step = min(state.short_steps) if short < SHORT * long else long
