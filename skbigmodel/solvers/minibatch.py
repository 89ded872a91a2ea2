"""Mini-batch descent: one iteration is one epoch, a pass over all rows in a shuffled order.

With a number as learning rate these are the plain methods: a step of constant rate along the gradient of
each batch. They end up wandering about the optimum, at a distance that the rate sets. With "auto" they
arrive:

1. The gradient of a batch is corrected by the same rows' gradient at the start of the epoch, of which the
   mean over all rows is known (stochastic variance reduced gradient). The noise so vanishes at the optimum.
2. Steps are taken in coordinates in which the columns' units do not matter.
3. An epoch that raises the objective is undone and repeated with a smaller rate; after a good one the rate
   grows.

The parameters visit the blocks in a shuffled order, on a cluster too: what an epoch changes is sent on from
block to block.

A stream (:meth:`MiniBatch.stream`) takes plain steps of a falling rate, since no row comes back.

References
----------
R. Johnson and T. Zhang, "Accelerating stochastic gradient descent using predictive variance reduction", NIPS
(2013); B. T. Polyak and A. B. Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J.
Control Optim. 30 (1992).
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from .. import optimizers
from ..optimizers import Schedule
from ..passes_stochastic import AVERAGED, STEPS, Anchor, Classes, OneOutput, Plan, Walk, epoch, shuffled
from .certificate import Certificate, Iterate, change_of_value
from .coordinates import Coordinates

MAX_BATCH = 32
MIN_STEPS = 16  # per epoch, on small data
MAX_REJECTIONS = 60


def default_batch_size(blocks):
    """Few rows for many steps per epoch; on sparse data enough to pay for a step of all columns."""
    size = min(MAX_BATCH, max(1, blocks.n_rows // MIN_STEPS))
    per_row = max(1.0, blocks.n_entries / blocks.n_rows)
    return int(min(max(size, blocks.n_features / per_row), blocks.n_rows)) if blocks.sparse else size


@dataclass
class State(Iterate):
    """Iterate; ``last`` is where the steps stand, which differs from ``theta`` where those are averaged."""

    last: np.ndarray | None = None
    moments: np.ndarray | None = None  # of the optimizer
    rate: float = 0.0
    steps: int = 0
    total: np.ndarray | None = None  # sum of the iterates in the average, and ...
    averaged: int = 0  # ... their number
    rejections: int = 0  # in a row
    table: np.ndarray | None = None  # SAGA's slopes of the rows, and ...
    table_grad: np.ndarray | None = None  # ... their mean gradient


class MiniBatch:
    """What the stochastic solvers share."""

    State = State
    GROWTH, SHRINKAGE = 1.2, 0.5  # of the rate after a good epoch and after a bad one

    def __init__(self, objective, settings):
        self.objective, self.settings, self.blocks = objective, settings, objective.blocks
        self.certificate = Certificate(objective, settings)
        self.auto = settings.learning_rate == "auto"
        self.batch_size = min(settings.batch_size or default_batch_size(self.blocks), self.blocks.n_rows)
        self.head = Classes(objective.n_outputs) if objective.loss is None else OneOutput(objective.loss)
        self.shape = objective.n_outputs, objective.n_features + 1

    @staticmethod
    def refusal(objective):
        """Why the optimum is out of reach, or ``None``."""
        return None if getattr(objective.loss, "smooth", True) else "the loss has kinks"

    @property
    def coordinates(self):
        """Those in which steps are taken."""
        return self.certificate.coordinates if self.auto else Coordinates(self.objective, plain=True)

    def init(self, theta):
        """Evaluate the start and choose the first rate."""
        value, grad = self.objective.value_grad(theta)
        state = State(theta, value, grad, last=theta, moments=self.no_moments(), total=np.zeros(self.shape))
        if self.auto:
            g = self.coordinates.pull(grad)
            state.rate = self.first_rate(g, self.coordinates.curvature_near(theta, g))
        self.certificate.judge(state)
        return state

    def no_moments(self):
        """The optimizer's memory at the start."""
        return np.zeros((self.optimizer.n_moments, self.shape[0] * self.shape[1]))

    def stream(self, state=None, theta=None):
        """One plain pass over the rows of this call: see :func:`skbigmodel.solvers.stream.stream`."""
        from .stream import stream

        return stream(self, state, theta)

    def advance(self, state):
        """One epoch."""
        state.count += 1
        if self.auto:
            self._advance_anchored(state)
            return
        plan = self.plan(self.coordinates, Schedule(self.settings.learning_rate))
        self.keep_walk(state, self.walk(state, plan, self.no_anchor()))
        state.theta = self.mean_iterate(state)
        with np.errstate(over="ignore", invalid="ignore"):
            state.value, state.grad = self.objective.value_grad(state.theta)
        self.certificate.judge(state)

    def _advance_anchored(self, state):
        at = self.coordinates
        anchor = self._anchor(state)
        walk = self.walk(state, self.plan(at, Schedule(state.rate)), anchor)
        theta = self._flat(walk.total / walk.counts[AVERAGED] if self.settings.average else walk.theta)
        value, grad = self.objective.value_grad(theta)
        if not change_of_value(self.objective, state, theta, value, grad) <= 0.0:
            state.rejections += 1
            state.rate *= self.SHRINKAGE
            state.stalled = state.rejections > MAX_REJECTIONS
            self._forget(state)
            return
        state.rejections = 0
        state.rate *= self.GROWTH
        state.theta, state.value, state.grad, state.last = theta, value, grad, theta
        state.moments, state.steps = walk.moments, int(walk.counts[STEPS])
        self._keep_anchor(state, anchor)
        self.certificate.judge(state)

    # -- an epoch

    def plan(self, at, schedule, weight=None):
        """What stays the same in an epoch of steps in the coordinates ``at``."""
        objective, blocks, penalty = self.objective, self.blocks, self.objective.penalty
        scale = np.append(at.scale[:: at.K], 1.0)[: self.shape[1]]
        return Plan(
            optimizer=self.optimizer, schedule=schedule, batch_size=self.batch_size,
            weight=weight or blocks.weight / blocks.n_rows, n_rows=blocks.n_rows, l2=float(penalty.l2),
            proximal=penalty._replace(l1=float(penalty.l1), l2=0.0), mean=at.mean, scale=scale,
            has_intercept=bool(objective.fit_intercept), average=bool(self.settings.average),
            l2_intercept=float(penalty.l2_intercept),
        )  # fmt: skip

    def walk(self, state, plan, anchor):
        """Carry out an epoch from ``state.last``; the state itself is left as it is."""
        counts = np.array([state.steps, 0, self.blocks.n_rows, 0])
        theta = self._matrix(state.last)
        walk = Walk(theta, np.zeros(self.shape), state.moments.copy(), np.zeros(self.shape), counts)
        key = self.settings.seed * 1_048_583 + state.count
        order = shuffled(len(self.blocks.bounds) - 1, key).tolist()
        visits = [(k, key * 1021 + k + 1) for k in order]
        return self.blocks.relay(partial(_visit, self.head, plan, anchor), walk, visits)

    def keep_walk(self, state, walk):
        state.last, state.moments = self._flat(walk.theta), walk.moments
        state.steps = int(walk.counts[STEPS])
        if self.settings.average and state.count >= int(self.settings.average):
            state.total = state.total + walk.total
            state.averaged += int(walk.counts[AVERAGED])

    def mean_iterate(self, state):
        return self._flat(state.total / state.averaged) if state.averaged else state.last

    def no_anchor(self):
        return Anchor(np.empty((0, 0)), np.empty((0, 0)), np.empty((0, 0)))

    def _anchor(self, state):
        """Step 1: the start of the epoch and the gradient of the loss there."""
        return Anchor(self._matrix(state.theta), self._matrix(self._loss_grad(state)), np.empty((0, 0)))

    def _keep_anchor(self, state, anchor):
        """What a memory that outlives the epoch would put into the state."""

    def _forget(self, state):
        """Drop what earlier epochs left behind, so that short enough steps are sure to descend."""
        state.moments, state.steps = self.no_moments(), 0

    def _loss_grad(self, state):
        return state.grad - self.objective.penalty_gradient(state.theta)

    def _matrix(self, theta):
        """(n_outputs, n_features + 1) of a flat vector; the last column is 0 without an intercept."""
        rows = theta.reshape(-1, self.shape[0])
        matrix = np.zeros(self.shape)
        matrix[:, : len(rows)] = rows.T
        return matrix

    def _flat(self, matrix):
        return matrix[:, : self.shape[1] - 1 + bool(self.objective.fit_intercept)].T.ravel()


def _visit(head, plan, anchor, walk, block, key):
    """The walk after the steps over the rows of a block."""
    part = anchor._replace(table=anchor.table[block.start : block.stop])
    epoch(block.rows, block.y, block.s, head, plan, part, walk, key)
    return walk


class SGD(MiniBatch):
    """Smooth losses with any penalty, which acts through its proximal operator after each step."""

    name = "sgd"
    optimizer = optimizers.Sgd()

    @staticmethod
    def first_rate(g, curvature):
        """Half of the best step along the gradient."""
        return 0.5 / curvature

    @staticmethod
    def stream_rate(value, curvature, noise):
        """An eighth of the best step along the gradient, less where batches are noisy."""
        return 0.125 / (curvature * (1.0 + noise))


class Adam(MiniBatch):
    """Smooth objectives. Steps are as long as the rate, so that falls with the distance that is left."""

    name = "adam"
    optimizer = optimizers.Adam()

    @staticmethod
    def refusal(objective):
        """Why the optimum is out of reach, or ``None``."""
        if not objective.penalty.smooth:
            return "it takes no l1 penalty and no positive=True"
        return MiniBatch.refusal(objective)

    @staticmethod
    def first_rate(g, curvature):
        """A tenth of the largest entry of the best step along the gradient."""
        return 0.1 * float(np.abs(g).max(initial=0.0)) / curvature or 1e-3

    @staticmethod
    def stream_rate(value, curvature, noise):
        """A small part of the distance over which so curved a function rises to its value."""
        return 0.02 * np.sqrt(2.0 * abs(value) / curvature)
