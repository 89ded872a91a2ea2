"""Training of a network: one iteration is one epoch of mini-batch steps of constant or scheduled rates.

1. Rows are shuffled by NumPy's generator, as scikit-learn's MLPClassifier shuffles them.
   Batches are the same wherever the rows lie: of a source a part of the epoch's rows is read at a time.
2. A small network makes many steps in one call of the kernel. For a large one each batch is cut into parts
   whose gradients threads work out at a time; the cut depends on the shapes alone and the parts are added in
   their order, so that results do not depend on the threads.
3. With ``averaged`` the running mean of the parameters after each epoch stands for them in what follows.
4. Training ends, or the rate is lowered, when neither the loss nor the validation score has improved by more
   than ``tol`` for ``n_iter_no_change`` epochs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..encoding import encoded
from ..network import make_room
from ..passes_network import Noise, Plan, Targets, Walk, run_steps, shard_gradient, shard_step, weight_of
from ..passes_parameters import Plain, spread_out
from ..reading import read_rows
from ..rows import as_rows
from ..slices import block_rows
from ..selection import SelectedRows
from ..threads import run_tasks

PRODUCTS_PER_CALL = 2_000_000_000  # of rows and parameters, then Ctrl-C is heard
PER_ROW, PER_STEP = 1_000, 60_000  # what a row and a step cost besides, in such products
VISITS = 8  # of a block in an epoch, where the parameters travel to it
READINGS = 20  # of a large source of float64 in an epoch: a twentieth of its rows is in memory at a time
BLOCKS_AT_A_TIME = 8  # or as many rows as there are in so many blocks
SMALLEST_RATE = 1e-6  # at which "adaptive" gives up


class Recipe(NamedTuple):
    """How a network is trained."""

    name: str  # of the solver
    optimizer: object
    rate: float
    mode: str = "constant"  # "invscaling" and "adaptive" as in scikit-learn
    power_t: float = 0.5
    schedule: Callable | None = None  # factor of the rate at a share of the way
    horizon: int = 1  # epochs of that way
    batch_size: int = 200
    shuffle: bool = True
    tol: float = 1e-4
    n_iter_no_change: float = 10
    alpha: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = np.inf
    dropout: float = 0.0
    form: object = Plain()
    last_best: bool = False  # of equal scores keep the last, not the first
    averaged: float = 0.0  # share of the horizon over which the parameters that are judged are averaged


@dataclass
class State:
    """Where a training stands; ``rows`` are those it goes through, in the order of the last epoch."""

    theta: np.ndarray
    value: float
    moments: np.ndarray
    rng: np.random.RandomState
    rows: np.ndarray
    rate: float
    shuffled: bool = False  # whether ``rows`` are in the order of an epoch that has not been gone through
    epochs: int = 0  # since the schedule began
    steps: int = 0
    seen: int = 0  # rows, over all epochs
    key: int = 0  # of the noise
    waited: int = 0  # epochs without improvement
    best: float = -np.inf  # score, or minus the loss
    kept: np.ndarray | None = None  # the parameters to return
    average: np.ndarray | None = None  # running mean of theta after each epoch, where it is asked for
    optimality: float = np.inf  # what the driver asks for; nothing is known about it
    gap: float = np.inf

    @property
    def judged(self):
        """The parameters that are scored and may be returned."""
        return self.theta if self.average is None else self.average


def rows_at_a_time(X):
    """How many rows of a source are in memory at a time, which then take a twentieth of its bytes."""
    share = X.shape[0] * np.dtype(X.dtype).itemsize // (8 * READINGS)
    return max(BLOCKS_AT_A_TIME * block_rows(X), share)


class Epochs:
    """Solvers ``"sgd"`` and ``"adam"`` of a network.

    Parameters
    ----------
    objective : NetworkObjective
    recipe : Recipe
    """

    State = State
    remedy = "Lower learning_rate_init, or scale the features (for example with StandardScaler)."

    def __init__(self, objective, recipe):
        self.objective, self.recipe, self.name = objective, recipe, recipe.name
        self.batch = recipe.batch_size
        plan = Plan(
            recipe.optimizer,
            recipe.form,
            float(recipe.alpha),
            float(recipe.weight_decay),
            float(recipe.clip_norm),
            float(recipe.dropout),
            self.batch,
        )
        blocks, n_shards = objective.blocks, objective.shards(self.batch)
        self.steps = Steps(
            objective.net, plan, objective.smoothing, n_shards, blocks.sparse, blocks.n_threads, []
        )

    def begin(self, theta, rng, rows):
        """The state at the start, going through the given rows."""
        key = int(rng.randint(1 << 31)) << 20 if self.recipe.dropout > 0.0 else 0
        moments = np.zeros((self.recipe.optimizer.n_moments, theta.size), theta.dtype)
        return State(theta, np.inf, moments, rng, rows, float(self.recipe.rate), key=key, kept=theta)

    def advance(self, state):
        """One epoch; of an interrupted one nothing remains but the order of rows, for the next."""
        walk = Walk(state.theta.copy(), state.moments.copy(), np.array([state.steps, state.key]))
        walk, total, done = self._go_through(state, walk)
        state.theta, state.moments, state.steps, state.shuffled = *walk[:2], int(walk.clock[0]), False
        state.value = total / done
        state.epochs += 1
        state.seen += done
        if self.recipe.averaged > 0.0:
            state.average = self._averaged(state)
        if self.recipe.mode == "invscaling":
            state.rate = self.recipe.rate / (state.seen + 1) ** self.recipe.power_t

    def _averaged(self, state):
        """The running mean, over all epochs at first, then with weights that fade over a share of the way."""
        weight = max(1.0 / state.epochs, 1.0 / max(1.0, self.recipe.averaged * self.recipe.horizon))
        if weight == 1.0 or state.average is None:
            return state.theta
        return state.average + state.theta.dtype.type(weight) * (state.theta - state.average)

    def judge(self, state, score):
        """Step 4: keep the iterate to return, and say why to stop, or ``None``."""
        recipe = self.recipe
        quality = -state.value if score is None else score
        state.waited = state.waited + 1 if quality < state.best + recipe.tol else 0
        better = quality >= state.best if recipe.last_best else quality > state.best
        if score is None or better or state.kept is None:
            state.kept = state.judged
        state.best = max(state.best, quality) if quality == quality else state.best
        if state.waited <= recipe.n_iter_no_change:
            return None
        if recipe.mode == "adaptive" and state.rate > SMALLEST_RATE:
            state.rate, state.waited = state.rate / 5.0, 0
            return None
        return "no_progress" if score is None else "early_stopping"

    def _go_through(self, state, walk):
        """The walk after the steps of an epoch, the sum of the losses on the way, and the rows seen."""
        if self.recipe.shuffle and not state.shuffled:
            places = np.arange(state.rows.size)
            state.rng.shuffle(places)
            state.rows, state.shuffled = state.rows[places], True
        total, done = 0.0, 0
        for rows, targets, order in self._pieces(state):
            rates = self._rates(state, done, order.size, state.rows.size)
            total += self.steps.take(rows, targets, order, walk, rates)
            done += order.size
        return walk, total, done

    def _pieces(self, state):
        """(rows, targets, order) of data that can be had at once; of others of some batches at a time.

        The batches are the same, so that it does not matter where rows lie or how they are sorted.
        """
        blocks, n_rows = self.objective.blocks, state.rows.size
        if "rows" in blocks.memo:
            yield blocks.memo["rows"], self.objective.targets(), state.rows
            return
        size = max(1, rows_at_a_time(blocks.X) // self.batch) * self.batch
        for start in range(0, n_rows, size):
            part = state.rows[start : start + size]
            ascending = np.argsort(part)
            numbers, places = part[ascending], np.empty_like(part)
            places[ascending] = np.arange(part.size)
            read = read_rows(SelectedRows(blocks.X, numbers), 0, part.size, checked=True)
            rows = encoded(as_rows(read), blocks.encoder)
            yield rows, self.objective.targets(numbers), places

    def _rates(self, state, done, n_rows, of_all):
        """Rates of the steps over so many rows, after those ``done`` in this epoch of so many."""
        n_steps = -(-n_rows // self.batch)
        if self.recipe.schedule is None:
            return np.full(n_steps, state.rate)
        share = (done + self.batch * np.arange(n_steps)) / of_all
        way = np.minimum((state.epochs + share) / self.recipe.horizon, 1.0)
        return state.rate * np.array([float(self.recipe.schedule(t)) for t in way])


class Visits(Epochs):
    """Epochs over rows that lie in several places, which the parameters visit in turn.

    Rows of one block are often alike. So each is visited several times in an epoch, each time for a share of
    its rows. ``rows`` of the state are the numbers of rows in the blocks.
    """

    def _go_through(self, state, walk):
        """As above; only the parameters, the optimizer's memory and a seed are sent."""
        blocks, shuffle, n_rows = self.objective.blocks, self.recipe.shuffle, int(state.rows.sum())
        seed, n_visits = (int(state.rng.randint(1 << 31)), VISITS) if shuffle else (None, 1)
        visits, done = [], 0
        for share in range(n_visits):
            numbers = np.arange(state.rows.size)
            if shuffle:
                state.rng.shuffle(numbers)
            for k in numbers.tolist():
                n = len(range(share, int(state.rows[k]), n_visits))
                if n:
                    visits.append((k, (seed, share, n_visits), self._rates(state, done, n, n_rows)))
                done += n
        walk, total = blocks.relay(self.steps.visit, (walk, 0.0), visits)
        return walk, total, done


class Steps(NamedTuple):
    """How steps over rows at hand are taken; it can be sent to where the rows are."""

    net: object
    plan: Plan
    smoothing: float
    n_shards: int  # of a batch
    sparse: bool
    n_threads: int
    rooms: list  # work space of the parts of a batch, made when the width of theta is known

    def visit(self, state, block, share, rates):
        """(walk, sum of losses) after the steps over a share of the rows of a block."""
        (walk, total), (seed, first, step) = state, share
        rows = np.flatnonzero(np.broadcast_to(block.s, len(block.y)))
        if seed is not None:
            rows = np.random.default_rng([seed, block.start]).permutation(rows)
        targets = Targets(block.y, block.s, float(self.smoothing))
        order = np.ascontiguousarray(rows[first::step])
        return walk, total + self.take(block.rows, targets, order, walk, rates)

    def take(self, rows, targets, order, walk, rates):
        """A step for each batch; the sum of the batches' losses times their sizes."""
        batch = self.plan.batch_size
        if not self.rooms:
            size, theta = -(-batch // self.n_shards), walk.theta
            for _ in range(self.n_shards):
                self.rooms.append(make_room(self.net, size, theta.dtype, self.sparse, theta.size))
        if self.n_shards > 1:
            return self._take_in_shards(rows, targets, order, walk, rates)
        step = batch * (walk.theta.size + PER_ROW) + PER_STEP
        total, n = 0.0, max(1, PRODUCTS_PER_CALL // step)
        for k in range(0, rates.size, n):
            part = order[k * batch : (k + n) * batch]
            total += run_steps(
                self.net, rows, targets, part, walk, self.plan, self.rooms[0], rates[k : k + n]
            )
        return total

    def _take_in_shards(self, rows, targets, order, walk, rates):
        """Step 2 for a large network."""
        net, plan, n_shards, (theta, _, clock) = self.net, self.plan, self.n_shards, walk
        grads, losses, total = np.empty((n_shards, theta.size), theta.dtype), np.empty(n_shards), 0.0
        rooms = [room._replace(grad=grad) for room, grad in zip(self.rooms, grads, strict=True)]
        for k, rate in enumerate(rates):
            batch = order[k * plan.batch_size : (k + 1) * plan.batch_size]
            scale = 1.0 / weight_of(targets, batch)
            cuts = np.linspace(0, batch.size, n_shards + 1).astype(np.int64)
            key = int(clock[1] + (clock[0] << 20))
            layers = spread_out(plan.form, net, theta, rooms[0].theta)

            def gradient(i, batch=batch, cuts=cuts, scale=scale, key=key, layers=layers):
                part, noise = batch[cuts[i] : cuts[i + 1]], Noise(plan.dropout, key + (i << 50))
                losses[i] = shard_gradient(net, rows, targets, part, layers, rooms[i], noise, scale)

            run_tasks(gradient, n_shards, self.n_threads)
            penalty = shard_step(net, plan, walk, layers, grads, rate, 1.0 / scale)
            total += (losses.sum() + penalty) * batch.size
        return total
