"""The training of networks: from parameters of an estimator through a solver to fitted attributes."""

import copy
import inspect
import warnings
from numbers import Integral

import numpy as np
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array

from .classification import decide, probabilities
from .network_data import NetworkData
from .network_inputs import code_categories, find_categories, fit_encoding
from .network_presets import AVERAGED, BATCH, RATES, settings
from .validation import as_float, as_labels, check_finite, is_blockwise, is_dask


class NetworkTraining(NetworkData):
    """What an estimator does to train a network and to go on with its training."""

    @property
    def _settings(self):
        if self.preset is None:
            return self
        parameters = inspect.signature(type(self)).parameters.values()
        return settings(self, {parameter.name: parameter.default for parameter in parameters})

    def _form(self):
        """How the parameters that steps move make up those of the layers."""
        from .passes_parameters import Plain, Scaled

        return Plain() if self.preset is None or self.solver == "lbfgs" else Scaled(**RATES)

    def _activation(self):
        from .activations import ACTIVATIONS as CLASSES

        activation = self._settings.activation
        return CLASSES[activation]() if isinstance(activation, str) else activation

    def _dtype(self, X):
        """The width of numbers in which a network is trained."""
        return as_float(X.dtype) if self.preset is None else np.dtype(np.float32)

    def _code(self, X, sample_weight, going_on):
        """X with numbers for its categories, and those categories; ``None`` without a preset."""
        if self.preset is None:
            return X, None
        if is_dask(X):
            raise TypeError(f"preset={self.preset!r} encodes data in memory: call X.compute()")
        known = going_on and self.encoding_ is not None
        categories = self.encoding_.categories if known else find_categories(X, sample_weight)
        return code_categories(X, categories), categories

    def _encode(self, X, categories, rows, s, going_on):
        """What is made of the input: nothing without a preset, as before in a fit that goes on."""
        if self.preset is None:
            return None
        return self.encoding_ if going_on else fit_encoding(X, categories, rows, s)

    def _network(self, X, coded, categories=None):
        from .network import make_network

        hidden = self._settings.hidden_layer_sizes
        hidden = list(hidden) if hasattr(hidden, "__iter__") else [hidden]
        if not all(isinstance(width, Integral) and width > 0 for width in hidden):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
        width = X.shape[1] if categories is None else width_of(categories)
        return make_network([width, *hidden, coded.n_outputs], self._activation(), coded.softmax)

    def _objective(self, X, coded, net):
        from .network import NetworkObjective

        blocks = self._blocks(X, coded.Y, coded.s)
        settings = self._settings
        return NetworkObjective(blocks, net, float(settings.alpha), float(settings.label_smoothing))

    def _generator(self, kept):
        """The random numbers of this fit: those of the last one go on where only a seed is given."""
        if kept and isinstance(self.random_state, Integral):
            return copy.deepcopy(kept["state"]["rng"])
        return check_random_state(self.random_state)

    def _start(self, net, rng, dtype, going_on):
        """The parameters from which training starts."""
        from .network import pack, start

        if not going_on:
            return self._form().gather(net, start(net, self._settings.init, rng, dtype))
        widths = [self.coefs_[0].shape[0], *(len(b) for b in self.intercepts_)]
        if widths != net.widths.tolist():
            raise ValueError(
                f"hidden_layer_sizes={self._settings.hidden_layer_sizes!r} and the data make layers of the "
                f"widths {net.widths.tolist()}, but the last fit had {widths}"
            )
        if net.softmax != (self.out_activation_ == "softmax"):
            raise ValueError("y held several labels of a row in the last fit and does not now, or conversely")
        return self._form().gather(net, pack(self.coefs_, self.intercepts_, dtype))

    def _layers(self, net, theta):
        """Parameters of the layers for those that steps move."""
        from .passes_parameters import Plain, spread_out

        form = self._form()
        return theta if form == Plain() else spread_out(form, net, theta, theta[: net.biases[-1]].copy())

    def _attributes(self, theta, net, coded, dtype, encoding=None):
        """Fitted attributes of a flat parameter vector."""
        from .network import unpack

        coefs, intercepts = unpack(net, self._layers(net, theta).astype(dtype))
        return {
            "encoding_": encoding,
            "coefs_": coefs,
            "intercepts_": intercepts,
            "classes_": coded.classes,
            "class_weight_": coded.class_weight,
            "n_layers_": len(net.widths),
            "n_outputs_": coded.n_outputs,
            "out_activation_": "softmax" if coded.softmax else "logistic",
        }

    def _scorer(self, held_out, net, coded, encoding):
        """Accuracy of an iterate on the held-out rows, with a preset a smooth one; ``None`` without such."""
        from .network import raw_outputs, unpack
        from .slices import in_slices

        if held_out is None:
            return None
        X, y, s = held_out
        encoder = None if encoding is None else encoding.encoder()
        y = check_array(y, dtype=None) if self._several_labels(y) else np.asarray(as_labels(y))

        def score(theta):
            network = *unpack(net, self._layers(net, theta)), net.activation, encoder
            z = in_slices(lambda rows: raw_outputs(rows, *network), X)
            if self.preset is not None:
                return float(np.average(smooth_accuracy(z, y, coded), weights=s))
            if y.ndim == 2:
                return float(np.average(((z > 0) == y).all(axis=1), weights=s))
            return float(np.average(coded.classes[decide(z)] == y, weights=s))

        return score

    def _train(self, objective, theta, course, score, watch, n_epochs=None):
        """The result of training, and the name of the solver; ``course`` is (rng, rows, kept)."""
        from .network import prepare_products
        from .solvers.driver import Control, minimize
        from .solvers.epochs import Epochs, Visits
        from .solvers.scipy_lbfgs import ScipyLBFGS
        from .threads import single_threaded_blas

        settings = self._settings
        max_iter = settings.max_iter if n_epochs is None else n_epochs
        control = Control(max_iter, self.tol, self.loss_threshold, self.max_time, watch, score)
        with single_threaded_blas:
            if self.solver == "lbfgs":
                solver = ScipyLBFGS(objective, self.max_fun, self.n_iter_no_change)
                return solver.minimize(theta.astype(np.float64), control), solver.name
            rng, rows, kept = course
            prepare_products(objective.net, theta.dtype, objective.blocks.n_threads)
            scattered = objective.blocks.scattered
            # a stream has no length that a preset's schedule could be for
            schedule = settings.lr_schedule if n_epochs is None else self.lr_schedule
            recipe = self._recipe(int(rows.sum()) if scattered else rows.size, schedule)
            solver = (Visits if scattered else Epochs)(objective, recipe)
            state = self._state(solver, theta, rng, rows, kept, new_rows=n_epochs is not None)
            if settings.lr_schedule is not None and n_epochs is None:
                state.epochs = state.epochs if state.epochs < max_iter else 0
                control = control._replace(max_iter=max_iter - state.epochs)
            try:
                return minimize(solver, theta, control, state), solver.name
            except (ValueError, IndexError, OSError):
                # rows of a source are taken in another order; read block by block it tells which are at fault
                if is_blockwise(objective.blocks.X):
                    objective.blocks.trusted = True
                    check_finite(self, objective.blocks)
                raise

    def _recipe(self, n_rows, schedule):
        from .optimizers import SCHEDULES, Adam, Sgd
        from .solvers.epochs import Recipe

        settings = self._settings
        optimizer, name = self.solver, getattr(type(self.solver), "__name__", "").lower()
        if isinstance(self.solver, str):
            name = self.solver
            adam = Adam(float(settings.beta_1), float(settings.beta_2), float(settings.epsilon))
            sgd = Sgd(float(settings.momentum), bool(self.nesterovs_momentum))
            optimizer = adam if name == "adam" else sgd
        batch_size = BATCH[self.preset] if self.batch_size == "auto" else self.batch_size
        if self.batch_size != "auto" and self.batch_size > n_rows:
            warnings.warn(
                f"batch_size={self.batch_size} is larger than the number of rows and clipped to it, {n_rows}",
                UserWarning,
                stacklevel=2,
            )
        return Recipe(
            name,
            optimizer,
            float(settings.learning_rate_init),
            settings.learning_rate if name == "sgd" else "constant",
            float(settings.power_t),
            SCHEDULES.get(schedule) if isinstance(schedule, str) else schedule,
            settings.max_iter,
            int(min(batch_size, n_rows)),
            settings.shuffle,
            settings.tol,
            settings.n_iter_no_change,
            settings.alpha,
            settings.weight_decay,
            np.inf if settings.clip_norm is None else settings.clip_norm,
            settings.dropout,
            self._form(),
            last_best=self.preset is not None,
            averaged=AVERAGED[self.preset],
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
        from .network import pack

        self.solver_ = solver
        self._resume = None
        if solver != "lbfgs":
            state = vars(result.state).copy()
            if not self.warm_start:
                state["rows"] = places = None
            self._resume = {
                "solver": solver,
                "start": result.theta if self.preset is None else pack(self.coefs_, self.intercepts_, None),
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
        if self._settings.lr_schedule is not None and self.solver != "lbfgs":
            del advice["max_iter"]  # a schedule is meant to be gone through
        if result.status in advice:
            warnings.warn(
                f"{type(self).__name__} had not converged after {result.n_iter} iterations, when training "
                f"ended because {MESSAGES[result.status]}: {advice[result.status]}.",
                ConvergenceWarning,
                stacklevel=4,
            )


def smooth_accuracy(z, y, coded):
    """1 - half the Brier score of each row: whether it is right, if the model is certain.

    Of a few hundred rows the accuracy jumps from epoch to epoch, so that the best one is a matter of luck.
    """
    if y.ndim == 2:
        return 1.0 - ((expit(z) - y) ** 2).mean(axis=1)
    truth = (np.asarray(y)[:, None] == coded.classes).astype(z.dtype)
    return 1.0 - 0.5 * ((probabilities(z) - truth) ** 2).sum(axis=1)


def width_of(categories):
    """Columns that numbers and categories make."""
    return sum(1 if names is None else len(names) for names in categories)
