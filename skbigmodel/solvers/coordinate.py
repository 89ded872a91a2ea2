"""Coordinate descent for l1 penalties and sign constraints: Newton's method on a working set of features.

1. The working set holds the features whose coefficients are not zero and those that violate the optimality
   conditions most, twice as many as the former. Its columns are copied, so that the work on them does not
   touch the rest of X.
2. A quadratic model on the working set, exact for the squared error, is minimised by coordinate descent and
   Newton steps on the coefficients that are not zero (see ``quadratic``). What it promises to gain is the
   estimate of the gap.
3. The step is taken, shortened until the objective falls. The gradient there, in one pass over X, shows
   which features the working set lacks. A model is kept while it serves, and on tall data with few features
   the start is the optimum of a sample of the rows.

References
----------
T. B. Johnson and C. Guestrin, "Blitz: a principled meta-algorithm for scaling sparse optimization", ICML
(2015);
M. Massias, A. Gramfort and J. Salmon, "Celer: a fast solver for the lasso with dual extrapolation", ICML
(2018);
G.-X. Yuan, C.-H. Ho and C.-J. Lin, "An improved GLMNET for L1-regularized logistic regression", JMLR 13
(2012).
"""

import copy
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from .. import passes_coordinate as passes
from ..blocks import MAX_BLOCKS, ArrayBlocks
from ..objective import LinearObjective
from ..passes_linear import add_weighted
from ..validation import as_float
from . import quadratic
from .coordinate_softmax import SIZE_LIMIT, SoftmaxCoordinateDescent
from .driver import gap_tolerance
from .line_search import descend
from .newton import Newton, sample_step

FIRST_SIZE = 100, 200  # features in the first working set, at least and ...
FIRST_SHARE = 20  # ... at most, if the data have this many times as many rows and columns
SMALL = 150  # features up to which all of them are always in
NEAR = 0.97  # a gradient that close to violating the conditions makes a feature worth having
# of a dense model: passes over its columns beside the products, and products in the time of one in a pass
SCALING_COST, BLAS_GAIN = 4.0, 80.0
PAIR_COST = 0.2  # of a product of two entries of a sparse row, in passes per entry
BLOCK_ENTRIES = 1 << 16  # of a working set's columns that are worth a block of their own
SATURATED = 1e-10  # mean curvature at a given start below which zero is the better start
ROUNDING = 1e-13  # relative gap below which ...
IDLE_LIMIT = 3  # ... so many iterations without any progress mean that none is possible


@dataclass
class State:
    """Iterate with value and gradient of the smooth part, the model, and the step it suggests."""

    theta: np.ndarray
    value: float
    grad: np.ndarray
    model: quadratic.Model | None = None
    step: np.ndarray | None = None
    gap: float = np.inf
    optimality: float = np.inf
    idle: int = 0  # iterations since the last that made progress
    stalled: bool = False


class FewBlocks(ArrayBlocks):
    """Blocks at least as long as wide: a matrix per block is summed over them."""

    def _cut(self):
        affordable = 2 if self.sparse else max(2, self.n_rows // max(self.n_features, 1))
        n_blocks = max(1, min(affordable, MAX_BLOCKS, self.n_entries // BLOCK_ENTRIES, self.n_rows))
        return np.linspace(0, self.n_rows, n_blocks + 1).astype(np.int64)


def take_columns(blocks, features):
    """Some columns of the rows of a source, as an array or CSR matrix."""
    if not features.size:
        return np.empty((blocks.n_rows, 0))
    if not blocks.sparse:
        X = np.empty((blocks.n_rows, features.size), as_float(blocks.X.dtype))

        def take(block):
            np.take(block.rows.X, features, axis=1, out=X[block.start : block.stop], mode="clip")

        blocks.map(take)
        return X
    place = np.full(blocks.n_features, -1, np.int32)
    place[features] = np.arange(features.size)
    parts = blocks.map(lambda block: passes.take_sparse(block.rows, place))
    data, indices, lengths = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    indptr = np.append(0, np.cumsum(lengths))
    return csr_matrix((data, indices, indptr), shape=(blocks.n_rows, features.size))


def _squared_lengths(block):
    lengths = np.diff(block.rows.indptr).astype(np.float64)
    return (lengths**2).sum()


class CoordinateDescent:
    """Smooth losses with any penalty."""

    name = "cd"
    State = State

    def __init__(self, objective, settings):
        self.objective, self.settings = objective, settings
        self.quadratic = getattr(objective.loss, "quadratic", False)
        self._columns = None  # (working set, objective on it): derived from the data, made again when lost

    @staticmethod
    def refusal(objective):
        """Why the optimum is out of reach, or ``None``."""
        if objective.n_outputs > 1:
            return (
                None
                if objective.n_coefs <= SIZE_LIMIT
                else "it takes a multinomial loss with few coefficients only"
            )
        if not getattr(objective.loss, "smooth", True):
            return "the loss has kinks"
        if objective.penalty.l2_intercept > 0:
            return "it takes no penalty on the intercept"
        if not hasattr(objective.loss, "curvature"):
            return "the loss has no curvature method"
        return None

    @classmethod
    def variant(cls, objective):
        """The class for that objective: the multinomial loss has its own."""
        return cls if objective.n_outputs == 1 else SoftmaxCoordinateDescent

    # -- the iteration

    def init(self, theta):
        """Evaluate the start; where it is zero, one with a better intercept or the optimum of a sample."""
        with np.errstate(over="ignore", invalid="ignore"):
            state = self._start(theta)
        if theta.any() and not (state.model is not None and state.model.total > SATURATED):
            state = self._start(np.zeros_like(theta))
        return state

    def _start(self, theta):
        p = self.objective.n_features
        if p <= SMALL:
            theta = self._sample_optimum(theta)
        elif self.objective.fit_intercept and not theta[:p].any():
            theta = self._null_optimum(theta)
        state = State(theta, *self.objective.value_grad(theta))
        if np.isfinite(state.value):
            self._plan(state)
        else:
            state.optimality = np.nan
        return state

    def advance(self, state):
        """One iteration."""
        found = self._search(state)
        if found is None:
            state.stalled = True
            return
        new = copy.copy(state)  # an interrupt must not leave half an iteration behind
        new.theta, new.value, new.grad = found
        if np.isfinite(new.value):
            self._plan(new)
            self._notice_stall(state, new)
        vars(state).update(vars(new))

    def _search(self, state):
        """Step 3: the first point along the step that is low enough, with value and gradient, or ``None``."""
        objective, p, w = self.objective, self.objective.n_features, state.theta
        l1 = objective.penalty.l1
        change = (np.abs(w[:p] + state.step[:p]) - np.abs(w[:p])).sum()
        slope = float((state.grad * state.step).sum() + l1 * change)
        found = descend(lambda at: self._evaluate(at, state.model.features), state, state.step, slope)
        if found is None:
            return None
        theta, value, gradient = found
        return theta, value, gradient()

    def _evaluate(self, theta, features):
        """(value, function that returns the gradient); the value takes the working set's columns alone."""
        objective, blocks = self.objective, self.objective.blocks
        if features.size == objective.n_features or blocks.remote:
            value, grad = objective.value_grad(theta)
            return value, lambda: grad
        few, loss, fit_intercept = self._restricted(features).blocks, objective.loss, objective.fit_intercept
        cut, slopes, w = self._cut(theta, features), np.empty(blocks.n_rows), theta[: objective.n_features]

        def losses(block):
            part = slopes[block.start : block.stop]
            return passes.loss_slopes(block.rows, block.y, block.s, loss, cut, fit_intercept, part)

        def block_sum(block, grad):
            add_weighted(block.rows, slopes[block.start : block.stop], grad)
            return 0.0

        def gradient():
            objective.n_passes += 1
            grad = blocks.total(block_sum, theta.size)[1]
            if fit_intercept:
                grad[-1] = slopes.sum()
            grad /= blocks.weight
            grad[: w.size] += objective.penalty.gradient(w)
            return grad

        value = sum(few.map(losses)) / blocks.weight + objective.penalty.value(cut[: features.size])
        return value, gradient

    def _plan(self, state):
        """Steps 1 and 2 at the iterate."""
        p = self.objective.n_features
        residual = self.objective.penalty.residual(state.theta[:p], state.grad[:p])
        bias = float(np.abs(state.grad[-1])) if self.objective.fit_intercept else 0.0
        state.optimality = max(float(residual.max(initial=0.0)), bias)
        if np.isnan(state.optimality):
            return
        before, missing = state.gap, self._missing(state.model, residual)
        if missing:
            self._remodel(state, self._select(state))
            missing = self._missing(state.model, residual)
            self._aim(state)
        else:
            self._aim(state)
            if self._worth_a_model(state, before):
                self._remodel(state, state.model.features)
                self._aim(state)
        if missing:
            state.gap = np.inf

    def _missing(self, model, residual):
        """Whether a feature outside the working set wants to move."""
        if model is None:
            return True
        return np.count_nonzero(residual) > np.count_nonzero(residual[model.features])

    def _notice_stall(self, old, new):
        progress = new.gap < 0.9 * old.gap or new.optimality < 0.9 * old.optimality
        new.idle = 0 if progress or new.gap > ROUNDING * abs(new.value) else old.idle + 1
        new.stalled = new.idle >= IDLE_LIMIT

    # -- steps 1 and 2

    def _select(self, state):
        """The working set."""
        p, penalty = self.objective.n_features, self.objective.penalty
        w, g = state.theta[:p], state.grad[:p]
        first = min(self.objective.blocks.X.shape) // FIRST_SHARE
        size = max(min(max(first, FIRST_SIZE[0]), FIRST_SIZE[1]), 2 * np.count_nonzero(w))
        if penalty.smooth or p <= SMALL or 2 * size >= p:
            return np.arange(p)
        urgency = np.where(w != 0, np.inf, -g if penalty.positive else np.abs(g))
        chosen = np.argpartition(urgency, p - size)[p - size :]
        return np.sort(chosen[urgency[chosen] > NEAR * penalty.l1])

    def _remodel(self, state, features):
        """A model of those features at the iterate."""
        state.model = quadratic.build(self._restricted(features), self._cut(state.theta, features), features)

    def _cut(self, theta, features):
        return np.append(theta[features], theta[-1]) if self.objective.fit_intercept else theta[features]

    def _restricted(self, features):
        """The objective on those features alone."""
        if features.size == self.objective.n_features:
            return self.objective
        if self._columns is None or not np.array_equal(self._columns[0], features):
            self._columns = features, self._objective_on(features)
        return self._columns[1]

    def _objective_on(self, features):
        blocks, objective = self.objective.blocks, self.objective
        if blocks.remote:
            blocks = blocks.columns(features)
        else:
            blocks = FewBlocks(take_columns(blocks, features), blocks.y, blocks.s, blocks.n_threads)
        return LinearObjective(blocks, objective.loss, objective.penalty, objective.fit_intercept)

    def _aim(self, state):
        """Step 2: step and gap by the model that there is."""
        model, p = state.model, self.objective.n_features
        features, pull = model.features, float(state.grad[-1]) if self.objective.fit_intercept else 0.0
        w, G = state.theta[features], state.grad[features] - pull * model.means
        X = None if model.H.size else self._restricted(features).blocks.matrix()
        scale = max(abs(state.value), 1e-300)
        goal = 0.01 * min(gap_tolerance(self.settings.tol) * scale, state.gap)
        if not self.quadratic:  # the error of the model itself is of second order in what is left
            goal = max(goal, 1e-3 * scale * min(state.gap / scale, 1.0) ** 2)
        best, gain, left = quadratic.problem(model, w, G, self.objective.penalty, X).minimize(goal)
        state.step = np.zeros(state.theta.size)
        state.step[features] = best - w
        if self.objective.fit_intercept:
            state.step[p] = -pull / model.total - model.means @ (best - w)
        state.gap = max(gain, 0.0) + left + 0.5 * pull**2 / model.total

    def _model_cost(self, model):
        """Of a new model, in passes over X."""
        if not model.H.size:
            return 1.0
        blocks = self.objective.blocks
        if blocks.sparse and not blocks.remote:
            pairs = self._restricted(model.features).blocks.map(_squared_lengths)
            return PAIR_COST * float(sum(pairs)) / blocks.n_entries
        k = model.features.size
        return k / self.objective.n_features * (SCALING_COST + k / BLAS_GAIN)

    def _worth_a_model(self, state, before):
        """Whether the passes to go at the present rate outnumber those with a new model."""
        goal = gap_tolerance(self.settings.tol) * abs(state.value)
        if self.quadratic:
            return False
        if not state.gap > goal > 0:
            return state.optimality > self.settings.tol
        rate = np.log(np.clip(state.gap / before, 1e-16, 0.999)) if before > 0 else -1.0
        return np.log(goal / state.gap) / rate > self._model_cost(state.model) + 2

    # -- starts

    def _null_optimum(self, theta):
        """The best intercept while all coefficients are zero."""
        objective = self._objective_on(np.empty(0, np.int64))
        start = Newton(objective, self.settings)
        state = start.init(theta[-1:])
        for _ in range(50):
            if state.gap <= 1e-12 * abs(state.value) or state.stalled:
                break
            start.advance(state)
        return np.append(theta[:-1], state.theta)

    def _sample_optimum(self, theta):
        """The optimum of every k-th row, on tall data, to the accuracy that it can have."""
        k = 0 if self.quadratic else sample_step(self.objective)
        if not k:
            return theta
        sample = self.objective.sample(k)
        if sample.blocks.weight <= 0:
            return theta
        solver = CoordinateDescent(sample, self.settings)
        state = solver.init(theta)
        for _ in range(50):
            if state.gap <= 0.01 * sample.n_params / sample.blocks.n_rows * abs(state.value) or state.stalled:
                break
            solver.advance(state)
        return state.theta
