"""The step length along a direction: cut back until the objective falls by a share of what its slope says.

References
----------
J. Nocedal and S. J. Wright, "Numerical Optimization", 2nd ed., Springer (2006), section 3.5.
"""

import numpy as np

ARMIJO = 1e-4  # that share
MAX_TRIALS = 40


def shortened(t, rise, slope):
    """The next trial after ``t``: the minimum of the parabola through what is known, in [t/10, t/2]."""
    curved = rise - t * slope
    return t * min(0.5, max(0.1, -0.5 * t * slope / curved)) if 0.0 < curved < np.inf else 0.1 * t


def backtrack(trial, slope, room=0.0, t=1.0):
    """(t, point) for the first length that is good enough, or ``None``.

    ``trial(t)`` gives the rise of the objective and the point; it may rise by ``room``.
    """
    for _ in range(MAX_TRIALS):
        rise, point = trial(t)
        if rise <= room + ARMIJO * t * slope:
            return t, point
        t = shortened(t, rise, slope)
    return None


def descend(evaluate, state, direction, slope):
    """(theta, value, gradient) of a lower point along the direction, the whole of it first, or ``None``."""

    def trial(t):
        theta = state.theta + t * direction
        value, grad = evaluate(theta)
        return value - state.value, (theta, value, grad)

    # a decrease below rounding cannot be seen
    found = backtrack(trial, slope, room=1e-15 * abs(state.value))
    return found and found[1]
