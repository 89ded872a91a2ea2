"""Linear and logistic regression."""

from numbers import Real

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin, _fit_context
from sklearn.callback import with_callbacks
from sklearn.linear_model import ElasticNet as SklearnElasticNet
from sklearn.linear_model import GammaRegressor, LinearRegression, LogisticRegression, PoissonRegressor
from sklearn.linear_model._base import SparseCoefMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.multiclass import unique_labels
from sklearn.utils.validation import check_is_fitted

from ._docs import documented
from .base import GradientEstimator, copy_fitted
from .validation import as_float, as_labels, check_weights, check_Xy, encode, unchanged_on_error

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
class GDLinearRegressor(MultiOutputMixin, RegressorMixin, SparseCoefMixin, GradientEstimator):
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
        **GradientEstimator._parameter_constraints,
        "loss": [str, HasMethods(["value", "derivative"])],
        "alpha": [Interval(Real, 0, None, closed="left"), np.ndarray],
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
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Also a memmap, or anything with a shape, a dtype and slices of rows, such as an HDF5 data set;
            what is not a float array in C order on disk is read block by block.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
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
        self._check_domain(loss, targets if s is None else targets[s > 0])
        train, held_out = self._validation_split(X, y, s, validation)
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        context = self._callback_context(X, y, metadata)
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
                objective, thetas[t].copy(), score, self._watcher(context, X, y, metadata, unpack)
            )
            fitted = unpack(result.theta)
            results.append(result)
        vars(self).update(fitted, solver_=name)
        self._keep_history(results)
        self._keep_start(self._starts(X, y, None, None)[-1])
        gaps = np.array(
            [getattr(result.state, "gap", np.inf) for result in results]
        )  # no state: stopped at once
        self.dual_gap_ = gaps if y.ndim > 1 else float(gaps[0])
        if context is not None:
            context.call_on_fit_task_end(
                estimator=self, X=X, y=y, metadata=metadata, reconstruction_attributes={}
            )
        self._report(results)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None):
        """Make one stochastic pass over a batch of rows, going on from the calls before.

        With ``alpha`` the penalty is that of the mean loss, as in ``fit``. ``early_stopping``, ``tol`` and
        ``max_iter`` play no role. After a ``fit`` the stream starts at its coefficients.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If X has another number of features than before, or ``solver`` is not stochastic; the model is
            unchanged.
        """
        with unchanged_on_error(self):
            X, y = check_Xy(self, X, y, multi_output=True, reset=not hasattr(self, "coef_"))
            s, loss, targets = check_weights(sample_weight, X), _loss_of(self.loss), y.reshape(len(y), -1)
            self._check_domain(loss, targets if s is None else targets[s > 0])
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

    def _check_domain(self, loss, targets):
        sentence = loss.domain_error(targets) if hasattr(loss, "domain_error") else None
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
        if held_out is None:
            return None
        X, y, s = held_out
        y = np.asarray(y, dtype=np.float64).reshape(X.shape[0], -1)[:, target]

        def score(theta):
            z = safe_sparse_dot(X, theta[: X.shape[1]]) + (theta[-1] if self.fit_intercept else 0.0)
            return r2_score(y, _mean(loss, z), sample_weight=s)

        return score

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


@documented
class GDLogisticClassifier(SparseCoefMixin, ClassifierMixin, GradientEstimator):
    r"""Logistic regression, binary and multinomial, with an elastic-net penalty.

    Minimises, over coefficients :math:`w` and intercepts :math:`b`,

    .. math::

        C \sum_i s_i\, \ell(y_i, x_i^\top w + b) + \rho \|w\|_1 + \frac{1 - \rho}{2} \|w\|_2^2

    where :math:`s_i` is the sample weight times the weight of the row's class, :math:`\rho` = ``l1_ratio``,
    and
    :math:`\ell` is the log-loss for two classes and the softmax cross-entropy for more. The intercepts are
    not penalised. This is the objective of :class:`~sklearn.linear_model.LogisticRegression` with the same
    ``C`` and ``l1_ratio``.

    Parameters
    ----------
    C : float, default=1.0
        Inverse strength of the penalty; ``np.inf`` means none.
    l1_ratio : float, default=0.0
        Share of the l1 norm in the penalty, between 0 and 1.
    fit_intercept : bool, default=True
        Whether there are intercepts.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class. ``"balanced"`` makes the classes equal in total weight; in ``partial_fit`` by
        counts of the rows so far.
    {parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted.
    class_weight_ : ndarray of shape (n_classes,)
        Weight of each class.
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Coefficients; float32 if X is. For more than two classes those of a feature sum to 0 unless there is
        an l1 part.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Intercepts, summing to 0 for more than two classes; zeros without one.
    n_iter_ : ndarray of shape (1,)
        Iterations run.
    {attributes}

    See Also
    --------
    GDLinearRegressor : The same for numbers.

    References
    ----------
    .. [1] Hastie, T., Tibshirani, R. and Friedman, J. (2009). "The Elements of Statistical Learning", 2nd
       ed., chapter 4. Springer.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skbigmodel import GDLogisticClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = GDLogisticClassifier().fit(X, y)
    >>> model.predict(X[:2])
    array([0, 0])
    >>> model.predict_proba(X[:1]).round(2)
    array([[0.98, 0.02, 0.  ]])
    """

    _parameter_constraints = {
        **GradientEstimator._parameter_constraints,
        "C": [Interval(Real, 0, None, closed="right")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        *,
        C=1.0,
        l1_ratio=0.0,
        fit_intercept=True,
        class_weight=None,
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
        self.C = C
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
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
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Also a memmap, or anything with a shape, a dtype and slices of rows, such as an HDF5 data set;
            what is not a float array in C order on disk is read block by block.
        y : array-like of shape (n_samples,)
            Class labels: numbers, strings or booleans.
        {parameters}
        """
        with unchanged_on_error(self):
            return self._fit(
                X, y, sample_weight, (X_val, y_val, sample_weight_val), coef_init, intercept_init
            )

    def _fit(self, X, y, sample_weight, validation, coef_init, intercept_init):
        self._forget_stream()
        X, y = check_Xy(self, X, as_labels(y))
        s = check_weights(sample_weight, X)
        classes, codes = encode(y)
        self._check_classes(classes)
        s, of_class = self._with_class_weights(s, classes, y, codes)
        train, held_out = self._validation_split(X, y, s, validation, stratify=codes)
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        context = self._callback_context(X, y, metadata)
        theta = self._starts(X, classes, coef_init, intercept_init)
        blocks = self._blocks(X, codes if len(classes) > 2 else codes.astype(np.float64), train)

        def unpack(theta):
            return {**self._attributes(theta, len(classes), X.dtype), "classes_": classes}

        watch = self._watcher(context, X, y, metadata, unpack)
        score = self._scorer(held_out, classes, unpack)
        objective = self._objective(blocks, len(classes))
        result, name = self._run(objective, theta, score, watch)
        if np.isinf(self.C) and result.status == "converged" and _recedes(objective, result.theta):
            result.status = "separable"
        vars(self).update(unpack(result.theta), solver_=name, class_weight_=of_class)
        self._keep_history([result])
        self._keep_start(self._starts(X, classes, None, None))
        self.n_iter_ = np.array([result.n_iter], dtype=np.int32)  # as the twin has it
        if context is not None:
            context.call_on_fit_task_end(
                estimator=self, X=X, y=y, metadata=metadata, reconstruction_attributes={}
            )
        self._report([result])
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Make one stochastic pass over a batch of rows, going on from the calls before.

        The penalty is weighed against the rows seen so far, so that after all rows of a data set it is that
        of ``fit``. ``class_weight="balanced"`` counts the classes as they come. ``early_stopping``, ``tol``
        and ``max_iter`` play no role. After a ``fit`` the stream starts at its coefficients.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        classes : array-like of shape (n_classes,), default=None
            All classes that will ever come; needed in the first call.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a label is not among the classes, X has another number of features than before, or ``solver``
            is not stochastic; the model is unchanged.
        """
        with unchanged_on_error(self):
            X, y = check_Xy(self, X, as_labels(y), reset=not hasattr(self, "coef_"))
            s = check_weights(sample_weight, X)
            classes = self._stream_classes(classes)
            codes = np.searchsorted(classes, y).clip(max=len(classes) - 1)
            if (classes[codes] != y).any():
                unknown = np.unique(y[classes[codes] != y])
                raise ValueError(
                    f"y contains labels that are not among the classes {list(classes)}: {list(unknown)}"
                )
            seen = getattr(self, "_seen", np.zeros(len(classes) + 1))
            seen = seen + np.append(np.bincount(codes, s, len(classes)), 0.0)
            weights = self._stream_weights(classes, seen[:-1])
            s = weights[codes] * (1.0 if s is None else s)
            seen[-1] += s.sum()
            theta = self._starts(X, classes, getattr(self, "coef_", None), getattr(self, "intercept_", None))
            blocks = self._blocks(X, codes if len(classes) > 2 else codes.astype(np.float64), s)
            objective = self._objective(blocks, len(classes), seen[-1])
            kept, name = self._stream_step(objective, theta, (getattr(self, "_stream", None) or [None])[0])
            fitted = self._attributes(kept["state"]["theta"], len(classes), X.dtype)
            vars(self).update(fitted, classes_=classes, class_weight_=weights, _seen=seen)
            self._keep_stream([kept], name)
        return self

    def _stream_classes(self, classes):
        """The classes of the stream: those of the first call, or of a fit."""
        known = getattr(self, "classes_", None)
        if classes is None:
            if known is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            return known
        classes = unique_labels(as_labels(classes))
        if known is not None and not np.array_equal(known, classes):
            raise ValueError(
                f"`classes={list(classes)}` is not the same as on last call to partial_fit, "
                f"was: {list(known)}"
            )
        if len(classes) < 2:
            raise ValueError(f"classes must hold at least 2 classes, got one class: {list(classes)}")
        return classes

    def _stream_weights(self, classes, seen):
        """Weight of each class, given the weights of its rows so far."""
        if self.class_weight == "balanced":
            return seen.sum() / (len(classes) * np.where(seen > 0, seen, np.inf))
        return compute_class_weight(self.class_weight, classes=classes, y=classes)

    def _check_classes(self, classes):
        if len(classes) < 2:
            raise ValueError(
                "This solver needs samples of at least 2 classes in the data, but the data contains only one "
                f"class: {classes[0]!r}"
            )
        if self.warm_start and hasattr(self, "classes_") and not np.array_equal(self.classes_, classes):
            raise ValueError(
                f"warm_start=True goes on with the classes of the last fit, {list(self.classes_)}, but y has "
                f"{list(classes)}. Set warm_start=False or fit a clone."
            )

    def _with_class_weights(self, s, classes, y, codes):
        """Sample weights times class weights, or ``None`` for weights of 1; and the class weights."""
        if self.class_weight is None:
            return s, np.ones(len(classes))
        of_class = compute_class_weight(self.class_weight, classes=classes, y=y, sample_weight=s)
        return of_class[codes] if s is None else s * of_class[codes], of_class

    def _objective(self, blocks, n_classes, weight=None):
        from .losses import Logistic
        from .objective import LinearObjective
        from .penalties import ElasticNet
        from .softmax import SoftmaxObjective

        strength = 0.0 if np.isinf(self.C) else 1.0 / (self.C * (weight or blocks.weight))
        penalty = ElasticNet(float(strength * self.l1_ratio), float(strength * (1 - self.l1_ratio)))
        if n_classes == 2:
            return LinearObjective(blocks, Logistic(), penalty, bool(self.fit_intercept))
        return SoftmaxObjective(blocks, n_classes, penalty, bool(self.fit_intercept))

    def _starts(self, X, classes, coef_init, intercept_init):
        """The starting point as a flat vector: given, kept from the last fit, or as ``init`` says."""
        n_outputs = 1 if len(classes) == 2 else len(classes)
        if self.warm_start and hasattr(self, "coef_") and coef_init is None:
            coef_init, intercept_init = self.coef_, self.intercept_
        thetas = self._pack((n_outputs, X.shape[1]), coef_init, intercept_init)
        if n_outputs == 1:
            return thetas[0]
        # (n_features, n_classes) and then the intercepts: a feature's coefficients lie side by side
        return np.concatenate([thetas[:, : X.shape[1]].T.ravel(), thetas[:, X.shape[1] :].ravel()])

    def _attributes(self, theta, n_classes, dtype):
        """Fitted attributes of a flat parameter vector."""
        n_outputs = 1 if n_classes == 2 else n_classes
        n_intercepts = n_outputs * self.fit_intercept
        coef = theta[: theta.size - n_intercepts].reshape(-1, n_outputs).T
        intercept = theta[theta.size - n_intercepts :] if self.fit_intercept else np.zeros(n_outputs)
        if n_outputs > 1:
            # adding a constant to all classes changes no probability: take the smallest parameters among the
            # equals
            intercept = intercept - intercept.mean()
            coef = coef - coef.mean(axis=0) if self.l1_ratio == 0 else coef
        dtype = as_float(dtype)
        return {"coef_": np.array(coef, dtype=dtype, order="C"), "intercept_": intercept.astype(dtype)}

    def _scorer(self, held_out, classes, unpack):
        """Accuracy of an iterate on the held-out rows; ``None`` without such."""
        if held_out is None:
            return None
        X, y, s = held_out
        y = np.asarray(as_labels(y))

        def score(theta):
            fitted = unpack(theta)
            z = safe_sparse_dot(X, fitted["coef_"].T, dense_output=True) + fitted["intercept_"]
            return accuracy_score(y, classes[_decide(z)], sample_weight=s)

        return score

    def decision_function(self, X):
        """Log-odds of the second class, or raw predictions of each class.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) for two classes, else (n_samples, n_classes)
        """
        z = self._raw_predictions(X)
        return z[:, 0] if z.shape[1] == 1 else z

    def predict(self, X):
        """Predict the class of each row.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
            With the dtype of ``classes_``.
        """
        z = self._raw_predictions(X)
        return self.classes_[_decide(z)]

    def predict_proba(self, X):
        """Probability of each class: the logistic or softmax function of the raw predictions.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Columns in the order of ``classes_``; rows sum to 1.
        """
        z = self._raw_predictions(X)
        return np.hstack([expit(-z), expit(z)]) if z.shape[1] == 1 else softmax(z, axis=1)

    def predict_log_proba(self, X):
        """Logarithm of the probability of each class, computed without rounding to 0 on the way.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        z = self._raw_predictions(X)
        return np.hstack([log_expit(-z), log_expit(z)]) if z.shape[1] == 1 else log_softmax(z, axis=1)

    def score(self, X, y, sample_weight=None):
        """Accuracy of the predictions.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            True labels, held in any way that ``fit`` takes.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        return accuracy_score(as_labels(y), self.predict(X), sample_weight=sample_weight)

    def to_sklearn(self):
        """A fitted :class:`~sklearn.linear_model.LogisticRegression` that predicts the same.

        For exporters such as ONNX converters, which know scikit-learn's classes.
        """
        check_is_fitted(self)
        twin = LogisticRegression(
            C=self.C, l1_ratio=self.l1_ratio, fit_intercept=self.fit_intercept, class_weight=self.class_weight
        )
        names = ("coef_", "intercept_", "classes_", "n_features_in_", "feature_names_in_", "n_iter_")
        return copy_fitted(self, twin, names)


def _recedes(objective, theta):
    """Whether an unpenalised optimum lies at infinity, where a Newton step still moves predictions."""
    from .solvers.driver import Settings
    from .solvers.newton_cg import NewtonCG

    solver = NewtonCG(objective, Settings(tol=1e-8))
    state = solver.init(theta)
    s, weight = objective.blocks.s, objective.blocks.weight
    if state.value * weight < np.log(2) * (1.0 if s is None else s[s > 0].min()):
        return (
            True  # so small a loss that every row is on its side: larger coefficients make it smaller still
        )
    solver.advance(state)
    return objective.largest_change(state.theta - theta) > 0.1


def _decide(z):
    """Index of the predicted class for raw predictions (n_samples, 1 or n_classes)."""
    return (z[:, 0] > 0).astype(np.intp) if z.shape[1] == 1 else z.argmax(axis=1)


def _mean(loss, z):
    return loss.mean(z) if hasattr(loss, "mean") else z
