"""The dual problem of a support vector machine by working sets: exact, for any kernel.

Minimises over the dual variables beta, one for each row,

    ½·betaᵀ·(K + D)·beta - Σ y·beta,    lo <= beta <= hi,    Σ beta = 0

with the Gram matrix K. For the hinge loss D = 0 and a bound is the cost of the row; for its square there is
no bound and D = 1/(2·cost). Without a free intercept the sum is not fixed; one that is penalised by
½(b/B)² adds B² to each entry of K.

Each iteration

1. takes the rows whose dual variables are between their bounds, and of those that violate the optimality
   conditions at a bound as many as there is room for, from all degrees of violation;
2. solves the problem in these rows alone, two variables at a time, with their own small Gram matrix;
3. adds the rows of the Gram matrix that changed to the predictions of all rows;
4. measures the violation and the duality gap.

What takes time is step 3, so what matters is how few rows of the Gram matrix are needed. Most support vectors
are at their bound, and a rough solution tells which: so the problem is first solved for every fourth row of
each class, with costs four times as large, and that in the same way. Its predictions put the other rows at
their bounds.

References
----------
T. Joachims, "Making large-scale SVM learning practical", in Advances in Kernel Methods (1999);
R.-E. Fan, P.-H. Chen and C.-J. Lin, "Working set selection using second order information for training
support vector machines", JMLR 6 (2005);
Z. Wen et al., "ThunderSVM: a fast SVM library on GPUs and CPUs", JMLR 19 (2018).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg.lapack import dposv

from .. import passes_kernel as passes
from ..gram import GramRows

USUAL, LARGEST = 1024, 4096  # rows of a working set
THINNING = 4  # of the rows, for the rough solution
FEWEST = 256  # rows of a class in it
ROUGH = 0.1  # violation at which a rough solution is left
STEPS = 20  # in two variables between two steps of Newton's, per row of the working set
ROUNDS = 20  # of both
NEAR = 0.1  # violation above which a working set is not solved exactly: what it leaves out will change
SOLVABLE = 3072  # variables between their bounds for which Newton's step is worth its cost
WORK = 1e8  # cubes of their numbers, between two calls of the solver in two variables
JITTER = 1e-12  # added to the diagonal, relative to it, before it is factorised
ACCURACY = 0.1  # violation that the inner solver leaves, relative to that of all rows


class DualProblem(NamedTuple):
    """What is minimised."""

    rows: GramRows
    box: passes.Box
    dual: tuple  # of the loss
    balanced: bool = True  # Σ beta = 0
    bias: float = 0.0  # B²

    def thinned(self):
        """Every fourth row of each class with costs to match, and where these rows are."""
        y, cost, parts = self.box.y, self.box.cost.copy(), []
        for sign in (1.0, -1.0):
            rows = np.flatnonzero(y == sign)
            size = max(len(rows) // THINNING, min(len(rows), FEWEST))
            cost[rows] *= len(rows) / max(size, 1)
            parts.append(rows[np.linspace(0, len(rows) - 1, size).astype(np.intp)])
        kept = np.sort(np.concatenate(parts))
        box = passes.make_box(y[kept], cost[kept], self.dual)
        return self._replace(rows=self.rows.part(kept), box=box), kept


@dataclass
class State:
    """An iterate and what is known of it; ``value`` is the primal objective per unit of cost."""

    theta: np.ndarray  # dual variables, and last the intercept
    beta: np.ndarray
    z: np.ndarray  # predictions without a free intercept
    g: np.ndarray
    value: float = np.inf
    optimality: float = np.inf
    gap: float = np.inf
    stalled: bool = False


class WorkingSet:
    """Dual problems of support vector machines."""

    name = "working-set"

    def __init__(self, problem, settings):
        self.problem, self.tol = problem, settings.tol
        self.rows = problem.rows
        self.unit = float(problem.box.cost.sum())

    def init(self, theta):
        """The start ``theta``, or where that is 0, the one that a rough solution predicts."""
        beta, problem = theta[:-1].astype(np.float64), self.problem
        n = len(beta)
        if not beta.any() and self.rows.whole is None:
            beta = self._predicted()
        elif problem.balanced:
            balance(beta, np.abs(beta))
        state = State(theta, beta, np.zeros(n), np.empty(n))
        changed = np.flatnonzero(beta)
        if len(changed):
            self._move(state, changed, beta[changed], keep=False)
        self._measure(state)
        return state

    def advance(self, state):
        """One working set."""
        problem, whole = self.problem, self.rows.whole
        rows = self._choose(state)  # 1
        K = self.rows.matrix(rows) if whole is None else whole
        part = problem.box.cut(rows)
        if problem.bias or part.ridge.size > 1:
            K = K + problem.bias
            K[np.diag_indices(len(rows))] += part.ridge
        beta, g = state.beta[rows], state.g[rows]
        tol = ACCURACY * state.optimality  # 2
        if whole is None and state.optimality > NEAR:
            passes.solve_active(K, beta, part.lo, part.hi, g, tol, problem.balanced, STEPS, np.inf)
        else:
            solve_part(
                K, part, beta, g, tol if whole is None else min(tol, ACCURACY * self.tol), problem.balanced
            )
        delta = beta - state.beta[rows]
        changed = np.flatnonzero(delta)
        state.stalled = not len(changed)
        state.beta[rows] = beta
        self._move(state, rows[changed], delta[changed])  # 3
        self._measure(state)  # 4

    def _choose(self, state):
        """Step 1: the rows of the working set, sorted."""
        if self.rows.whole is not None:
            return np.arange(len(state.beta))
        box, beta = self.problem.box, state.beta
        grows, shrinks = beta < box.hi, beta > box.lo
        slope = state.g + state.theta[-1] if self.problem.balanced else state.g
        violation = np.maximum(np.where(grows, -slope, 0.0), np.where(shrinks, slope, 0.0))
        free = np.flatnonzero(grows & shrinks)
        size = min(max(USUAL, len(free) * 4 // 3), LARGEST)
        free = free[np.argsort(-violation[free], kind="stable")[: size * 3 // 4]]
        violation[free] = 0.0
        bound = np.flatnonzero(violation > 0.1 * ACCURACY * state.optimality)
        bound = bound[np.argsort(-violation[bound], kind="stable")]
        room = size - len(free)
        if len(bound) > room:
            bound = bound[np.linspace(0, len(bound) - 1, room).astype(np.intp)]
        return np.sort(np.concatenate([free, bound]))

    def _move(self, state, rows, delta, keep=True):
        """Step 3."""
        state.z = state.z + self.problem.bias * delta.sum()
        self.rows.add(rows, delta, state.z, keep)

    def _measure(self, state):
        """Step 4: gradient, intercept, violation, value and gap."""
        problem, beta = self.problem, state.beta
        low, high, intercept, norm, loss, gap = passes.measure(
            problem.box, beta, state.z, state.g, problem.balanced
        )
        state.optimality = max(high - low, 0.0) if problem.balanced else max(high, -low)
        state.value, state.gap = (norm + loss) / self.unit, max(gap, 0.0) / self.unit
        state.theta = np.append(beta, intercept if problem.balanced else problem.bias * beta.sum())

    def _predicted(self):
        """Dual variables that the solution of every fourth row suggests."""
        problem, box = self.problem, self.problem.box
        few, kept = problem.thinned()
        solver = WorkingSet(few, self)
        state = solver.init(np.zeros(len(kept) + 1))
        for _ in range(100):
            if state.stalled or state.optimality <= ROUGH or state.gap <= 1e-2 * ROUGH * state.value:
                break
            solver.advance(state)
        known, beta = state.beta, np.zeros(len(box.y))
        support = np.flatnonzero(known)
        at_bound = np.count_nonzero((known == few.box.lo) | (known == few.box.hi)) - np.count_nonzero(
            known == 0
        )
        if 2 * at_bound < len(support):  # their number tells how many others would be
            beta[kept] = np.clip(known, box.lo[kept], box.hi[kept])
            order = np.abs(beta)
        else:
            z = np.full(len(beta), state.theta[-1] if problem.balanced else 0.0)
            self.rows.add(kept[support], known[support], z)
            z += problem.bias * known.sum()
            order = 1.0 - box.y * z
            limit = 2.0 * box.cost * np.maximum(order, 0.0) if box.ridge.size > 1 else box.cost
            beta = np.where(order > 0.0, box.y * limit, 0.0)
        if problem.balanced:
            balance(beta, order)
        return beta


def solve_part(K, box, beta, g, tol, balanced):
    """Step 2: change ``beta`` and its gradient ``g`` until the violation is at most ``tol``, or nearly so.

    Steps in two variables find out which are at their bounds; where that is settled, Newton's step for the
    others is exact, however badly conditioned their Gram matrix.
    """
    for _ in range(ROUNDS):
        passes.solve_active(K, beta, box.lo, box.hi, g, tol, balanced, STEPS, np.inf)
        work = 0.0
        while work < WORK and not newton_step(K, box.lo, box.hi, beta, g, balanced):
            work += np.count_nonzero((beta > box.lo) & (beta < box.hi)) ** 3  # one more is at its bound
        if violation(box.lo, box.hi, beta, g, balanced) <= tol:
            break


def violation(lo, hi, beta, g, balanced):
    """By how much the optimality conditions are violated."""
    low, high = passes.extremes(beta, lo, hi, g, balanced)
    return high - low if balanced else max(high, -low)


def newton_step(K, lo, hi, beta, g, balanced):
    """Move the variables between their bounds towards their optimum, as far as all stay there.

    Returns whether it was the full step.
    """
    free = np.flatnonzero((beta > lo) & (beta < hi))
    if len(free) <= balanced or len(free) > SOLVABLE:
        return True
    H, slope = K[np.ix_(free, free)], g[free]
    if balanced:  # the last takes the opposite of all others
        H = H[:-1, :-1] - H[-1, :-1] - H[:-1, -1:] + H[-1, -1]
        slope = slope[:-1] - slope[-1]
    H[np.diag_indices(len(H))] += JITTER * H.diagonal().mean()
    _, d, failed = dposv(H, -slope, lower=True, overwrite_a=True)
    if failed:  # not positive definite: a step may lead away
        return True
    if balanced:
        d = np.append(d, -d.sum())
    room = np.where(d > 0, hi[free] - beta[free], lo[free] - beta[free])
    room = np.divide(room, d, out=np.full(len(d), np.inf), where=d != 0)
    k = int(room.argmin())
    step = min(1.0, room[k])
    beta[free] += step * d
    if step < 1.0:
        beta[free[k]] = hi[free[k]] if d[k] > 0 else lo[free[k]]
    np.clip(beta, lo, hi, out=beta)
    passes.add_gram_rows(K, free, step * d, g)
    return step == 1.0


def balance(beta, order):
    """Make Σ beta = 0: set the entries of the heavier sign to 0 that come first in ``order``."""
    excess = beta.sum()
    if excess == 0.0:
        return
    side = np.flatnonzero(beta * np.sign(excess) > 0)
    side = side[np.argsort(order[side], kind="stable")]
    total = np.cumsum(np.abs(beta[side]))
    k = int(np.searchsorted(total, abs(excess)))
    if k == len(side):
        beta[:] = 0.0
        return
    kept = total[k] - abs(excess)
    beta[side[:k]] = 0.0
    beta[side[k]] = np.sign(excess) * kept
