"""L-BFGS as SciPy has it, for objectives with many optima: from one start it goes to the same one as
scikit-learn's MLPClassifier.

References
----------
R. H. Byrd, P. Lu, J. Nocedal and C. Zhu, "A limited memory algorithm for bound constrained optimization",
SIAM J. Sci. Comput. 16 (1995).
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from .driver import Run

STATUS = {0: "converged", 1: "max_iter", 2: "stalled"}


@dataclass
class State:
    """An iterate; ``kept`` is the one to return."""

    theta: np.ndarray
    value: float
    best: float = -np.inf
    waited: int = 0
    kept: np.ndarray | None = None
    optimality: float = np.inf
    gap: float = np.inf


class ScipyLBFGS:
    """Any smooth objective; one run of SciPy's routine, watched iteration by iteration.

    Parameters
    ----------
    objective : object with ``value_grad(theta)``
    max_fun : int
        Evaluations at most.
    """

    name = "lbfgs"
    remedy = "Scale the features (for example with StandardScaler)."

    def __init__(self, objective, max_fun, n_iter_no_change):
        self.objective, self.max_fun, self.n_iter_no_change = objective, max_fun, n_iter_no_change

    def judge(self, state, score):
        """Keep the last iterate, or with validation rows the one of the best score."""
        if score is None:
            state.kept = state.theta
            return None
        state.waited = 0 if score > state.best else state.waited + 1
        if score > state.best:
            state.best, state.kept = score, state.theta
        return "early_stopping" if state.waited > self.n_iter_no_change else None

    def minimize(self, theta, control):
        """Run from ``theta`` and return a :class:`~skbigmodel.solvers.driver.Result`."""
        run = Run(self, theta, control)
        state = State(theta, np.inf, kept=theta)
        run.begin(state)

        def note(intermediate_result):
            state.theta, state.value = intermediate_result.x.copy(), float(intermediate_result.fun)
            if run.record(state):
                raise StopIteration

        options = {"maxiter": control.max_iter, "maxfun": self.max_fun, "gtol": control.tol}
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                found = minimize(
                    self.objective.value_grad,
                    theta,
                    method="L-BFGS-B",
                    jac=True,
                    options=options,
                    callback=note,
                )
        except KeyboardInterrupt:
            run.result.status = "interrupted"
            return run.result
        if run.result.status == "max_iter":  # nothing else stopped it
            run.result.status = STATUS.get(found.status, "stalled")
        if control.score is None:
            run.result.theta, run.result.optimality = found.x, float(np.abs(found.jac).max())
        run.result.curve = run.result.curve or [float(found.fun)]
        return run.result
