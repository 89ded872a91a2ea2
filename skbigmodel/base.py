"""What the estimators share: the way from validated data through a solver to fitted attributes.

Nothing here imports Numba: the layers below are imported when a fit starts, so that importing the package,
loading a pickled model and predicting with it stay light.
"""

import functools
import inspect
import time
import warnings
from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions

from . import _jit
from .validation import (
    TOO_LARGE,
    NotFinite,
    check_finite,
    check_rows_at_hand,
    check_weights,
    check_X,
    is_dask,
)

CHEAP_TO_CHECK = 1 << 20  # entries of X
CHECKED_IN_PASSING = ("newton", "newton-cg", "least-squares", "cd", "interior-point", "dual")
STREAM_SOLVERS = ("sgd", "adam", "saga")


class GradientEstimator(CallbackSupportMixin, BaseEstimator):
    """Base of all estimators; subclasses say what is minimised and what the parameters mean."""

    _parameter_constraints = {
        "solver": [str, callable],
        "learning_rate": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "batch_size": [None, Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "loss_threshold": [None, Real],
        "max_time": [None, Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "init": [StrOptions({"zeros", "random"})],
        "average": ["boolean", Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "n_jobs": [None, Integral],
        "verbose": ["verbose"],
    }

    def __getstate__(self):
        return {**super().__getstate__(), "_skbigmodel_version": _version()}

    def __setstate__(self, state):
        state = dict(state)
        version = state.pop("_skbigmodel_version", "before 0.1.0")
        if version != _version():
            warnings.warn(
                f"This {type(self).__name__} was pickled with skbigmodel {version} and is loaded with "
                f"{_version()}: its predictions are kept, but a new fit may differ.",
                UserWarning,
                stacklevel=2,
            )
        # parameters that did not exist then have their defaults
        defaults = {name: p.default for name, p in inspect.signature(type(self)).parameters.items()}
        super().__setstate__({**defaults, **state})

    @property
    def _settings(self):
        """What has the parameters by which a fit goes."""
        return self

    # -- data

    def _blocks(self, X, y, s):
        """The source of blocks of X."""
        from .slices import make_blocks
        from .threads import resolve_threads

        return make_blocks(X, y, s, resolve_threads(self.n_jobs))

    def _validation_split(self, X, y, s, given, stratify=None):
        """Training weights and the validation triple (X, y, s), or ``None``.

        A validation row gets weight 0 in training, so X is not copied.
        """
        X_val, y_val, s_val = given
        if X_val is not None or y_val is not None:
            if X_val is None or y_val is None:
                raise ValueError("X_val and y_val must be given together")
            X_val = check_X(self, X_val, reset=False)
            return s, (X_val, y_val, check_weights(s_val, X_val, "sample_weight_val"))
        if s_val is not None:
            raise ValueError("sample_weight_val needs X_val and y_val")
        if not self.early_stopping:
            return s, None
        check_rows_at_hand(X)
        from .selection import some_rows

        rows = np.arange(X.shape[0])
        _, held_out = train_test_split(
            rows, test_size=self.validation_fraction, stratify=stratify, random_state=self.random_state
        )
        held_out = np.sort(held_out)
        weights = np.ones(X.shape[0]) if s is None else s.copy()
        s_val = None if s is None else weights[held_out]
        weights[held_out] = 0.0
        if not weights.any():
            raise ValueError("early_stopping leaves no training row with a positive weight")
        return weights, (some_rows(X, held_out), y[held_out], s_val)

    def _over_chunks(self, function, X, y, sample_weight):
        """[function(rows, y, weights)] over the chunks of a Dask collection, each where it is."""
        from .dask import over_chunks

        return over_chunks(function, X, y, sample_weight)

    # -- the run

    def _seed(self):
        """Drawn only where something is random, so that other fits leave a shared generator alone."""
        return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))

    def _keep_history(self, results):
        """Attributes on how the fit went; several results are those of independent targets."""
        length = max(len(result.curve) for result in results)
        curves = [result.curve + result.curve[-1:] * (length - len(result.curve)) for result in results]
        self.loss_curve_ = np.sum(curves, axis=0).tolist()
        self.n_iter_ = max(result.n_iter for result in results)
        self.optimality_ = max(float(result.optimality) for result in results)
        if any(result.scores for result in results):
            self.validation_scores_ = (
                [result.scores for result in results] if len(results) > 1 else results[0].scores
            )
        elif hasattr(self, "validation_scores_"):
            del self.validation_scores_

    def _run(self, objective, theta, score=None, watch=None, number=0):
        """Minimise the objective; the result with the name of the solver that did it.

        ``number`` tells the problems of one fit apart.
        """
        from .solvers import make_solver
        from .solvers.driver import Control, Settings, minimize
        from .threads import single_threaded_blas

        if _jit.numba is None:
            warnings.warn(
                "Numba cannot be imported: the fit runs as plain Python, very slowly",
                RuntimeWarning,
                stacklevel=5,
            )
        settings = Settings(self.tol, self.learning_rate, self.batch_size, self.average)
        solver = make_solver(self.solver, objective, settings, self._seed)
        control = Control(
            self.max_iter, self.tol, self.loss_threshold, self.max_time, watch, score, self.n_iter_no_change
        )
        blocks = objective.blocks
        # a check of its own is one more read of X; these solvers meet a bad value in their first sums
        checks_itself = solver.name in CHECKED_IN_PASSING and blocks.n_entries > CHEAP_TO_CHECK
        blocks.trusted = checks_itself
        if not checks_itself:
            check_finite(self, blocks)
        try:
            with single_threaded_blas:
                result = minimize(solver, theta, control, *self._resumable(solver, theta, objective, number))
        except NotFinite:
            check_finite(self, blocks)
            raise ValueError(TOO_LARGE) from None
        if self.warm_start and result.state is not None:
            # plain arrays, so that a pickled model does not need the solvers to be loaded
            kept = {"solver": solver.name, "state": vars(result.state).copy(), "end": result.end(self.tol)}
            self._resume = {**(getattr(self, "_resume", None) or {}), number: kept}
        return result, solver.name

    def _resumable(self, solver, theta, objective, number):
        """The kept state of the last fit and how it ended, if this fit poses the same problem at the same
        point; else nothing.
        """
        kept = (getattr(self, "_resume", None) or {}).get(number, {})
        if not self.warm_start or kept.get("solver") != solver.name or not hasattr(solver, "State"):
            return ()
        if not np.array_equal(kept.get("start"), theta):
            return ()
        state = solver.State(**kept["state"])
        value, _ = objective.value_grad(state.theta)
        return (state, kept["end"]) if value == state.value else ()

    def _keep_starts(self, thetas):
        """Remember for each problem the start from which a warm fit goes on exactly: that of the coefficients
        as rounded.
        """
        kept = getattr(self, "_resume", None)
        if self.warm_start and kept:
            self._resume = {k: {**kept[k], "start": theta} for k, theta in enumerate(thetas) if k in kept}

    def _watcher(self, context, X, y, metadata, unpack):
        """The function that the driver calls after each iteration, or ``None`` where nobody listens."""
        if context is None and not self.verbose:
            return None
        from .solvers.driver import judged

        last = [time.monotonic()]

        def watch(n_iter, state):
            """Print where asked to, tell the callbacks; whether one of them asks to stop."""
            if self.verbose and (self.verbose > 1 or time.monotonic() - last[0] > 1.0):
                last[0] = time.monotonic()
                print(f"[{type(self).__name__}] {self._progress(n_iter, state)}")
            if context is None:
                return False
            task = context.subcontext(task_name="iteration")
            told = {
                "estimator": self,
                "X": X,
                "y": y,
                "metadata": metadata,
                "reconstruction_attributes": lambda: unpack(judged(state)),
            }
            task.call_on_fit_task_begin(**told)
            return task.call_on_fit_task_end(**told)

        return watch

    @staticmethod
    def _progress(n_iter, state):
        return f"iteration {n_iter}: objective {state.value:.8g}, optimality {state.optimality:.3g}"

    def _callback_context(self, X, y, metadata, n_problems=1):
        """The root of this fit's tasks, begun; ``None`` where no callback is set."""
        if not getattr(self, "_skl_callbacks", None):
            return None
        context = self._init_callback_context(max_subtasks=self._settings.max_iter * n_problems)
        return context.call_on_fit_task_begin(estimator=self, X=X, y=y, metadata=metadata)

    def _end_of_tasks(self, context, X, y, metadata):
        """End the root of this fit's tasks, where there is one."""
        if context is not None:
            context.call_on_fit_task_end(
                estimator=self, X=X, y=y, metadata=metadata, reconstruction_attributes={}
            )

    def _report(self, results):
        """Warn once if a result is not the optimum, saying what to do; print the end where asked to."""
        from .solvers.driver import MESSAGES

        if self.verbose:
            for result in results:
                print(
                    f"[{type(self).__name__}] {result.n_iter} iterations, stopped because "
                    f"{MESSAGES[result.status]}; "
                    f"optimality {result.optimality:.3g}"
                )
        advice = {
            "max_iter": f"max_iter={self.max_iter} iterations were not enough: raise max_iter or max_time, "
            "scale the features (for example with StandardScaler), or leave the solver to 'auto'.",
            "max_time": f"max_time={self.max_time} seconds were not enough: raise max_time.",
            "stalled": "no further progress is possible in floating-point arithmetic, although tol is not "
            "reached: raise tol or scale the features (for example with StandardScaler).",
            "separable": "the classes can be told apart without error, at least some of them, so without a "
            "penalty (C=inf) there is no optimum and the coefficients grow without bound. "
            "Set C to a finite number.",
            "interrupted": "the fit was interrupted; the best iterate so far is kept. A fit with "
            "warm_start=True goes on from it.",
        }
        for result in results:
            if result.status in advice:
                warnings.warn(
                    f"{type(self).__name__} did not converge (optimality {result.optimality:.2g}, "
                    f"tol={self.tol}): " + advice[result.status],
                    ConvergenceWarning,
                    stacklevel=4,
                )
                return

    # -- streams

    def _stream_step(self, objective, theta, kept):
        """One pass of the stochastic solver over a batch.

        ``kept`` is what the last call returned, or ``None``: plain arrays, so that a pickled model does not
        need the solvers to be loaded.
        """
        from .solvers import solver_class
        from .solvers.driver import Settings
        from .solvers.stream import StreamState

        name = "sgd" if self.solver == "auto" else self.solver
        if name not in STREAM_SOLVERS:
            raise ValueError(
                f"partial_fit makes stochastic steps: solver must be 'auto' or one of {STREAM_SOLVERS}, "
                f"got {self.solver!r}"
            )
        if name == "adam" and not objective.penalty.smooth:
            raise ValueError("solver='adam' takes no l1 penalty and no positive=True; 'sgd' does")
        check_finite(self, objective.blocks)
        seed = kept["seed"] if kept else self._seed()
        settings = Settings(self.tol, self.learning_rate, self.batch_size, self.average, seed)
        solver = solver_class(name)(objective, settings)
        state = solver.stream(StreamState(**kept["state"])) if kept else solver.stream(theta=theta)
        if not np.isfinite(state.theta).all():
            raise ValueError(
                "the parameters are not finite after this batch: lower learning_rate or scale the features"
            )
        return {"seed": seed, "state": vars(state)}, name

    def _keep_stream(self, kept, name):
        """Attributes of a model that learns from a stream."""
        self._stream, self.solver_, self.n_iter_ = kept, name, 1
        kept = [one for one in kept if one]  # a problem of which no row has come yet has nothing
        values = [float(one["state"]["value"]) for one in kept]
        self.loss_curve_ = [*getattr(self, "loss_curve_", []), float(np.sum(values))]
        self.optimality_ = max(float(one["state"]["optimality"]) for one in kept)
        self.t_ = kept[0]["state"]["rows"]

    def _forget_stream(self):
        """A fit starts anew."""
        for name in ("_stream", "_seen", "t_"):
            vars(self).pop(name, None)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def blockwise(method):
    """Let a method of predictions take a Dask collection: it then gives a Dask array, chunk by chunk."""

    @functools.wraps(method)
    def predict(self, X):
        if not is_dask(X):
            return method(self, X)
        from .dask import map_rows

        return map_rows(self, method.__name__, X)

    return predict


def streamed(method):
    """Let ``partial_fit`` take a Dask collection: the model then visits its chunks, where they lie."""

    @functools.wraps(method)
    def partial_fit(self, X, y, *args, **kwargs):
        if not is_dask(X):
            return method(self, X, y, *args, **kwargs)
        from .dask import visit

        given = inspect.signature(method).bind(self, X, y, *args, **kwargs).arguments
        # another order in each call, of one seed always the same ones
        visit(seed=[self._seed(), int(getattr(self, "t_", 0))], model=given.pop("self"), **given)
        return self

    return partial_fit


def _version():
    from . import __version__

    return __version__


def copy_fitted(source, target, names):
    """Give ``target`` the fitted attributes of ``source`` that exist."""
    for name in names:
        if hasattr(source, name):
            setattr(target, name, getattr(source, name))
    return target
