"""The training of networks: from parameters of an estimator through a solver to fitted attributes."""

import copy
import warnings
from numbers import Integral

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array

from .classification import decide
from .network_data import NetworkData
from .validation import as_float, as_labels

DEFAULT_BATCH = 200


class NetworkTraining(NetworkData):
    """What an estimator does to train a network and to go on with its training."""

    def _network(self, X, coded):
        from .activations import ACTIVATIONS as CLASSES
        from .network import make_network

        hidden = self.hidden_layer_sizes
        hidden = list(hidden) if hasattr(hidden, "__iter__") else [hidden]
        if not all(isinstance(width, Integral) and width > 0 for width in hidden):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
        activation = CLASSES[self.activation]() if isinstance(self.activation, str) else self.activation
        return make_network([X.shape[1], *hidden, coded.n_outputs], activation, coded.softmax)

    def _objective(self, X, coded, net):
        from .network import NetworkObjective

        blocks = self._blocks(X, coded.Y, coded.s)
        return NetworkObjective(blocks, net, float(self.alpha), float(self.label_smoothing))

    def _generator(self, kept):
        """The random numbers of this fit: those of the last one go on where only a seed is given."""
        if kept and isinstance(self.random_state, Integral):
            return copy.deepcopy(kept["state"]["rng"])
        return check_random_state(self.random_state)

    def _start(self, net, rng, dtype, going_on):
        """The parameters from which training starts."""
        from .network import pack, start

        if not going_on:
            return start(net, self.init, rng, as_float(dtype))
        widths = [self.coefs_[0].shape[0], *(len(b) for b in self.intercepts_)]
        if widths != net.widths.tolist():
            raise ValueError(
                f"hidden_layer_sizes={self.hidden_layer_sizes!r} and the data make layers of the widths "
                f"{net.widths.tolist()}, but the last fit had {widths}"
            )
        if net.softmax != (self.out_activation_ == "softmax"):
            raise ValueError("y held several labels of a row in the last fit and does not now, or conversely")
        return pack(self.coefs_, self.intercepts_, as_float(dtype))

    def _attributes(self, theta, net, coded, dtype):
        """Fitted attributes of a flat parameter vector."""
        from .network import unpack

        coefs, intercepts = unpack(net, theta.astype(as_float(dtype)))
        return {
            "coefs_": coefs,
            "intercepts_": intercepts,
            "classes_": coded.classes,
            "class_weight_": coded.class_weight,
            "n_layers_": len(net.widths),
            "n_outputs_": coded.n_outputs,
            "out_activation_": "softmax" if coded.softmax else "logistic",
        }

    def _scorer(self, held_out, net, coded):
        """Accuracy of an iterate on the held-out rows; ``None`` without such."""
        from .blocks import in_slices
        from .network import raw_outputs, unpack

        if held_out is None:
            return None
        X, y, s = held_out
        y = check_array(y, dtype=None) if self._several_labels(y) else np.asarray(as_labels(y))

        def score(theta):
            network = unpack(net, theta)
            z = in_slices(lambda rows: raw_outputs(rows, *network, net.activation), X)
            if y.ndim == 2:
                return float(np.average(((z > 0) == y).all(axis=1), weights=s))
            return float(np.average(coded.classes[decide(z)] == y, weights=s))

        return score

    def _train(self, objective, theta, course, score, watch, n_epochs=None):
        """The result of training, and the name of the solver; ``course`` is (rng, rows, kept)."""
        from .blocks import single_threaded_blas
        from .solvers.driver import Control, minimize
        from .solvers.epochs import Epochs
        from .solvers.scipy_lbfgs import ScipyLBFGS

        max_iter = self.max_iter if n_epochs is None else n_epochs
        control = Control(max_iter, self.tol, self.loss_threshold, self.max_time, watch, score)
        with single_threaded_blas:
            if self.solver == "lbfgs":
                solver = ScipyLBFGS(objective, self.max_fun, self.n_iter_no_change)
                return solver.minimize(theta.astype(np.float64), control), solver.name
            rng, rows, kept = course
            solver = Epochs(objective, self._recipe(rows.size))
            state = self._state(solver, theta, rng, rows, kept, new_rows=n_epochs is not None)
            if self.lr_schedule is not None and n_epochs is None:
                state.epochs = state.epochs if state.epochs < max_iter else 0
                control = control._replace(max_iter=max_iter - state.epochs)
            return minimize(solver, theta, control, state), solver.name

    def _recipe(self, n_rows):
        from .optimizers import SCHEDULES, Adam, Sgd
        from .solvers.epochs import Recipe

        optimizer, name = self.solver, getattr(type(self.solver), "__name__", "").lower()
        if isinstance(self.solver, str):
            name = self.solver
            adam = Adam(float(self.beta_1), float(self.beta_2), float(self.epsilon))
            sgd = Sgd(float(self.momentum), bool(self.nesterovs_momentum))
            optimizer = adam if name == "adam" else sgd
        batch_size = DEFAULT_BATCH if self.batch_size == "auto" else self.batch_size
        if self.batch_size != "auto" and self.batch_size > n_rows:
            warnings.warn(
                f"batch_size={self.batch_size} is larger than the number of rows and clipped to it, {n_rows}",
                UserWarning,
                stacklevel=2,
            )
        return Recipe(
            name,
            optimizer,
            float(self.learning_rate_init),
            self.learning_rate if name == "sgd" else "constant",
            float(self.power_t),
            SCHEDULES.get(self.lr_schedule) if isinstance(self.lr_schedule, str) else self.lr_schedule,
            self.max_iter,
            int(min(batch_size, n_rows)),
            self.shuffle,
            self.tol,
            self.n_iter_no_change,
            self.alpha,
            self.weight_decay,
            np.inf if self.clip_norm is None else self.clip_norm,
            self.dropout,
        )

    def _kept(self, going_on):
        """What the last call kept for this one to go on with, if it is of use."""
        from .network import pack

        kept = getattr(self, "_resume", None)
        if not going_on or kept is None or kept["solver"] != self._solver_name():
            return None
        return kept if np.array_equal(kept["start"], pack(self.coefs_, self.intercepts_, None)) else None

    def _solver_name(self):
        return self.solver if isinstance(self.solver, str) else type(self.solver).__name__.lower()

    @staticmethod
    def _state(solver, theta, rng, rows, kept, new_rows):
        """Where training goes on, or a new state."""
        if not kept or kept["state"]["theta"].dtype != theta.dtype:
            return solver.begin(theta, rng, rows)
        state = solver.State(**{**kept["state"], "rng": rng})
        kept_rows = () if state.rows is None else state.rows
        if new_rows or rows.size != len(kept_rows) or not np.array_equal(np.sort(kept_rows), np.sort(rows)):
            state.rows, state.shuffled = rows, False
        if solver.recipe.mode == "constant":
            state.rate = solver.recipe.rate
        return state

    def _keep_state(self, result, solver, n_rows, places):
        """Plain arrays, so that a pickled model does not need the solvers to be loaded.

        The order of the rows and those held out are of use to a warm fit only, and as many as the data.
        """
        self.solver_ = solver
        self._resume = None
        if solver != "lbfgs":
            state = vars(result.state).copy()
            if not self.warm_start:
                state["rows"] = places = None
            self._resume = {
                "solver": solver,
                "start": result.theta,
                "state": state,
                "n_rows": n_rows,
                "places": places,
            }

    def _keep_course(self, result, going_on):
        """Attributes on how training went."""
        before = (lambda name: getattr(self, name, None) or []) if going_on else lambda name: []
        self.loss_curve_ = [*before("loss_curve_"), *result.curve]
        self.n_iter_, self.loss_ = result.n_iter, self.loss_curve_[-1] if self.loss_curve_ else np.inf
        scores = [*before("validation_scores_"), *result.scores]
        self.validation_scores_ = scores or None
        self.best_validation_score_ = max(scores) if scores else None
        self.best_loss_ = None if scores else min(self.loss_curve_, default=np.inf)
        self.t_ = getattr(result.state, "seen", 0)

    @staticmethod
    def _progress(n_iter, state):
        return f"Iteration {n_iter}, loss = {state.value:.8f}"

    def _report(self, result):
        """Warn if training did not end by itself; print the end where asked to."""
        from .solvers.driver import MESSAGES

        if self.verbose:
            print(
                f"[{type(self).__name__}] {result.n_iter} iterations, stopped because "
                f"{MESSAGES[result.status]}"
            )
        advice = {
            "max_iter": "raise max_iter, or max_fun for solver='lbfgs'",
            "max_time": "raise max_time",
            "stalled": "scale the features (for example with StandardScaler)",
            "interrupted": "a fit with warm_start=True goes on from here",
        }
        if self.lr_schedule is not None and self.solver != "lbfgs":
            del advice["max_iter"]  # a schedule is meant to be gone through
        if result.status in advice:
            warnings.warn(
                f"{type(self).__name__} had not converged after {result.n_iter} iterations, when training "
                f"ended because {MESSAGES[result.status]}: {advice[result.status]}.",
                ConvergenceWarning,
                stacklevel=4,
            )
