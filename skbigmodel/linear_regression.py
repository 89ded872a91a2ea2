"""Linear regression."""

from functools import partial, reduce
from numbers import Real

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.base import MultiOutputMixin, RegressorMixin, _fit_context
from sklearn.callback import with_callbacks
from sklearn.linear_model import ElasticNet as SklearnElasticNet
from sklearn.linear_model import GammaRegressor, LinearRegression, PoissonRegressor
from sklearn.metrics import r2_score
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import check_is_fitted

from ._docs import documented
from .base import blockwise, copy_fitted, streamed
from .linear import LinearEstimator
from .validation import (
    as_float,
    by_block,
    check_weights,
    check_Xy,
    float_targets,
    is_dask,
    unchanged_on_error,
)

IDENTITY_LINK = ("squared_error", "huber", "absolute_error", "quantile", "epsilon_insensitive")


def _loss_of(loss):
    """The loss with that name, or the object given."""
    from .losses import REGRESSION_LOSSES

    if not isinstance(loss, str):
        return loss
    if loss not in REGRESSION_LOSSES:
        raise ValueError(
            f"loss={loss!r} is not known; it must be one of {sorted(REGRESSION_LOSSES)}, or an object"
        )
    return REGRESSION_LOSSES[loss]()


@documented
class GDLinearRegressor(MultiOutputMixin, RegressorMixin, LinearEstimator):
    r"""Linear regression with a choice of losses and an elastic-net penalty.

    Minimises, over coefficients :math:`w` and intercept :math:`b`,

    .. math::

        \frac{1}{\sum_i s_i} \sum_i s_i\, \ell(y_i, x_i^\top w + b)
        + \alpha \left( \rho \|w\|_1 + \frac{1 - \rho}{2} \|w\|_2^2 \right)

    with sample weights :math:`s` and :math:`\rho` = ``l1_ratio``. The intercept is not penalised. For the
    squared error,
    :math:`\ell = (y - f)^2 / 2`, this is :class:`~sklearn.linear_model.LinearRegression` (``alpha=0``: the
    solution of minimum norm where it is not unique), :class:`~sklearn.linear_model.ElasticNet` and
    :class:`~sklearn.linear_model.Lasso` (the same ``alpha``), and :class:`~sklearn.linear_model.Ridge` (its
    ``alpha`` divided by the sum of the weights).

    Parameters
    ----------
    loss : str or loss object, default="squared_error"
        ``"squared_error"``, ``"huber"``, ``"absolute_error"``, ``"quantile"``, ``"epsilon_insensitive"``,
        ``"poisson"`` or ``"gamma"`` (the last two with a log link), or an object of :mod:`skbigmodel.losses`,
        such as ``Huber(delta=2.0)``, or one of your own.
    alpha : float or ndarray of shape (n_targets,), default=0.0
        Strength of the penalty.
    l1_ratio : float, default=0.0
        Share of the l1 norm in the penalty, between 0 (ridge) and 1 (lasso).
    fit_intercept : bool, default=True
        Whether there is an intercept.
    positive : bool, default=False
        Whether coefficients must not be negative.
    {parameters}

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,) or (n_targets, n_features)
        Coefficients; float32 if X is.
    intercept_ : float or ndarray of shape (n_targets,)
        Intercept, 0.0 without one.
    n_iter_ : int
        Iterations run; with several targets, the most that one took.
    dual_gap_ : float or ndarray of shape (n_targets,)
        The solver's estimate of how far the objective lies above the optimum.
    {attributes}

    See Also
    --------
    GDLogisticClassifier : The same for class labels.

    References
    ----------
    .. [1] Koenker, R. and Bassett, G. (1978). "Regression quantiles". Econometrica 46.
    .. [2] Zou, H. and Hastie, T. (2005). "Regularization and variable selection via the elastic net". J. R.
       Stat. Soc. B 67.

    Examples
    --------
    >>> import numpy as np
    >>> from skbigmodel import GDLinearRegressor
    >>> X = np.arange(5.0)[:, None]
    >>> model = GDLinearRegressor().fit(X, [1.0, 3.0, 5.0, 7.0, 9.0])
    >>> model.coef_.round(6), round(float(model.intercept_), 6)
    (array([2.]), 1.0)
    >>> GDLinearRegressor(loss="absolute_error").fit(X, [1.0, 3.0, 5.0, 7.0, 100.0]).predict([[5.0]]).round(6)
    array([11.])
    """

    _parameter_constraints = {
        **LinearEstimator._parameter_constraints,
        "loss": [str, HasMethods(["value", "derivative"])],
        "alpha": [Interval(Real, 0, None, closed="left"), np.ndarray],
        "l1_ratio": [Interval(Real, 0, 1, closed="both")],
        "positive": ["boolean"],
    }

    def __init__(
        self,
        *,
        loss="squared_error",
        alpha=0.0,
        l1_ratio=0.0,
        fit_intercept=True,
        positive=False,
        solver="auto",
        learning_rate="auto",
        batch_size=None,
        max_iter=1000,
        tol=1e-4,
        loss_threshold=None,
        max_time=None,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=5,
        init="zeros",
        average=False,
        warm_start=False,
        random_state=None,
        n_jobs=None,
        verbose=0,
    ):
        self.loss = loss
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.positive = positive
        self.solver = solver
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.loss_threshold = loss_threshold
        self.max_time = max_time
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.init = init
        self.average = average
        self.warm_start = warm_start
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X,
        y,
        sample_weight=None,
        *,
        X_val=None,
        y_val=None,
        sample_weight_val=None,
        coef_init=None,
        intercept_init=None,
    ):
        """Fit the model.

        Parameters
        ----------
        {X}
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        {parameters}
        """
        with unchanged_on_error(self):
            return self._fit(
                X, y, sample_weight, (X_val, y_val, sample_weight_val), coef_init, intercept_init
            )

    def _fit(self, X, y, sample_weight, validation, coef_init, intercept_init):
        self._forget_stream()
        X, y = check_Xy(self, X, y, multi_output=True)
        s, loss, targets = check_weights(sample_weight, X), _loss_of(self.loss), y.reshape(len(y), -1)
        self._check_domain(loss, targets, s)
        train, held_out = self._validation_split(X, y, s, validation)
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        context = self._callback_context(X, y, metadata, targets.shape[1])
        blocks = self._blocks(X, targets[:, 0], train)
        thetas = self._starts(X, y, coef_init, intercept_init)
        alphas = self._alphas(targets.shape[1])
        results = []
        for t, alpha in enumerate(alphas):

            def unpack(theta, t=t):
                thetas[t] = theta
                return self._attributes(thetas, X.dtype, y.ndim)

            objective = self._objective(blocks.with_targets(targets[:, t]) if t else blocks, loss, alpha)
            score = self._scorer(held_out, loss, t)
            result, name = self._run(
                objective, thetas[t].copy(), score, self._watcher(context, X, y, metadata, unpack), t
            )
            fitted = unpack(result.theta)
            results.append(result)
        vars(self).update(fitted, solver_=name)
        self._keep_history(results)
        self._keep_starts(self._starts(X, y, None, None))
        # a run that was stopped at once has no state
        gaps = np.array([getattr(result.state, "gap", np.inf) for result in results])
        self.dual_gap_ = gaps if y.ndim > 1 else float(gaps[0])
        self._end_of_tasks(context, X, y, metadata)
        self._report(results)
        return self

    @streamed
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None):
        """Make one stochastic pass over a batch of rows, going on from the calls before.

        The penalty is that of the mean loss, as in ``fit``.

        {stream}

        Parameters
        ----------
        {X}
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        {parameters}
        """
        with unchanged_on_error(self):
            X, y = check_Xy(self, X, y, multi_output=True, reset=not hasattr(self, "coef_"))
            s, loss, targets = check_weights(sample_weight, X), _loss_of(self.loss), y.reshape(len(y), -1)
            self._check_domain(loss, targets, s)
            thetas = self._pack(
                (targets.shape[1], X.shape[1]),
                getattr(self, "coef_", None),
                getattr(self, "intercept_", None),
            )
            blocks, alphas = self._blocks(X, targets[:, 0], s), self._alphas(targets.shape[1])
            kept = list(getattr(self, "_stream", None) or [None] * len(thetas))
            for t, alpha in enumerate(alphas):
                objective = self._objective(blocks.with_targets(targets[:, t]) if t else blocks, loss, alpha)
                kept[t], name = self._stream_step(objective, thetas[t], kept[t])
                thetas[t] = kept[t]["state"]["theta"]
            vars(self).update(self._attributes(thetas, X.dtype, y.ndim))
            self._keep_stream(kept, name)
        return self

    def _check_domain(self, loss, targets, s):
        for sentence in by_block(partial(_domain_error, loss), targets, s):
            if sentence:
                raise ValueError(f"loss={self.loss!r}: {sentence}")

    def _alphas(self, n_targets):
        """alpha for each target."""
        alphas = np.asarray(self.alpha, dtype=np.float64).reshape(-1)
        if alphas.size not in (1, n_targets):
            raise ValueError(
                "alpha: Number of targets and number of penalties do not correspond: "
                f"{alphas.size} != {n_targets}"
            )
        if not (np.isfinite(alphas) & (alphas >= 0)).all():
            raise ValueError(f"alpha must be finite and not negative, got {self.alpha!r}")
        return np.broadcast_to(alphas, (n_targets,))

    def _objective(self, blocks, loss, alpha):
        from .objective import LinearObjective
        from .penalties import ElasticNet

        penalty = ElasticNet(
            float(alpha * self.l1_ratio), float(alpha * (1 - self.l1_ratio)), bool(self.positive)
        )
        return LinearObjective(blocks, loss, penalty, bool(self.fit_intercept))

    def _starts(self, X, y, coef_init, intercept_init):
        """Starting points (n_targets, n_params): given, kept from the last fit, or as ``init`` says."""
        shape = (1 if y.ndim == 1 else y.shape[1], X.shape[1])
        if self.warm_start and hasattr(self, "coef_") and coef_init is None:
            coef_init, intercept_init = self.coef_, self.intercept_
        return self._pack(shape, coef_init, intercept_init)

    def _attributes(self, thetas, dtype, y_ndim):
        """Fitted attributes of parameter vectors (n_targets, n_params)."""
        coef = np.array(thetas[:, : thetas.shape[1] - self.fit_intercept], dtype=as_float(dtype))
        intercept = thetas[:, -1].astype(coef.dtype) if self.fit_intercept else 0.0
        if y_ndim == 1:
            return {"coef_": coef[0], "intercept_": intercept[0] if self.fit_intercept else 0.0}
        return {"coef_": coef, "intercept_": intercept}

    def _scorer(self, held_out, loss, target):
        """R² (or D² of the loss's mean) of an iterate on the held-out rows; ``None`` without such."""
        from .slices import in_slices

        if held_out is None:
            return None
        X, y, s = held_out
        y = np.asarray(y, dtype=np.float64).reshape(X.shape[0], -1)[:, target]

        def score(theta):
            w, b = theta[: X.shape[1]], theta[-1] if self.fit_intercept else 0.0
            z = in_slices(lambda rows: safe_sparse_dot(rows, w) + b, X)
            return r2_score(y, _mean(loss, z), sample_weight=s)

        return score

    @blockwise
    def predict(self, X):
        """Predict the target of each row.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets)
            The mean of y: the raw prediction, or its exponential for the losses ``poisson`` and ``gamma``.
        """
        z = self._raw_predictions(X)
        return z if self.loss in IDENTITY_LINK else _mean(_loss_of(self.loss), z)

    def score(self, X, y, sample_weight=None):
        """Coefficient of determination R² of the predictions; of several targets the mean.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            True targets.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        if not is_dask(X):
            return super().score(X, y, sample_weight)
        moments = reduce(_joint_moments, self._over_chunks(self._moments, X, y, sample_weight))
        return float(np.mean(_r2(moments[2], moments[3])))

    def _moments(self, X, y, s=None):
        """Weight, mean of y, and sums of the squares of y minus that mean and minus its prediction."""
        y = float_targets(y).reshape(X.shape[0], -1)
        s = np.ones((len(y), 1)) if s is None else np.asarray(s, np.float64).reshape(-1, 1)
        mean = (s * y).sum(axis=0) / max(s.sum(), 1e-300)
        left = y - self.predict(X).reshape(y.shape)
        return s.sum(), mean, (s * (y - mean) ** 2).sum(axis=0), (s * left**2).sum(axis=0)

    @property
    def sparse_coef_(self):
        """Coefficients as a CSR matrix, of shape (1, n_features) or (n_targets, n_features)."""
        return csr_matrix(self.coef_)

    def to_sklearn(self):
        """A fitted scikit-learn estimator that predicts the same, for exporters such as ONNX converters."""
        check_is_fitted(self)
        if self.loss in ("poisson", "gamma"):
            twin = PoissonRegressor() if self.loss == "poisson" else GammaRegressor()
            twin._base_loss = twin._get_loss()
            twin.set_params(alpha=self.alpha, fit_intercept=self.fit_intercept)
        elif np.max(self.alpha) == 0 or not isinstance(self.loss, str) or self.loss != "squared_error":
            twin = LinearRegression(fit_intercept=self.fit_intercept, positive=self.positive)
        else:
            twin = SklearnElasticNet(
                alpha=self.alpha,
                l1_ratio=self.l1_ratio,
                fit_intercept=self.fit_intercept,
                positive=self.positive,
            )
        return copy_fitted(
            self, twin, ("coef_", "intercept_", "n_features_in_", "feature_names_in_", "n_iter_")
        )


def _joint_moments(a, b):
    weight, apart = a[0] + b[0], b[1] - a[1]
    share = b[0] / max(weight, 1e-300)
    return weight, a[1] + share * apart, a[2] + b[2] + a[0] * share * apart**2, a[3] + b[3]


def _r2(total, left):
    """1 - left/total; of a constant target, 1 if nothing is left, else 0."""
    return np.where(total > 0, 1.0 - left / np.where(total > 0, total, 1.0), (left == 0) * 1.0)


def _domain_error(loss, targets, s):
    counting = targets if s is None else targets[s > 0]
    return loss.domain_error(counting) if hasattr(loss, "domain_error") else None


def _mean(loss, z):
    return loss.mean(z) if hasattr(loss, "mean") else z
