"""Logistic regression."""

from numbers import Real

import numpy as np
from sklearn.base import _fit_context
from sklearn.callback import with_callbacks
from sklearn.linear_model import LogisticRegression
from sklearn.utils._param_validation import Interval
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import check_is_fitted

from ._docs import documented
from .base import blockwise, copy_fitted, streamed
from .classification import (
    GradientClassifier,
    decide,
    log_probabilities,
    probabilities,
    validation_accuracy,
)
from .linear import LinearEstimator
from .validation import as_float, unchanged_on_error


@documented
class GDLogisticClassifier(GradientClassifier, LinearEstimator):
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
        **GradientClassifier._parameter_constraints,
        **LinearEstimator._parameter_constraints,
        "C": [Interval(Real, 0, None, closed="right")],
        "l1_ratio": [Interval(Real, 0, 1, closed="both")],
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
        {X}
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
        X, y, labels = self._check_labelled(X, y, sample_weight)
        classes = labels.classes
        train, held_out = self._validation_split(X, y, labels.s, validation, stratify=labels.codes)
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        context = self._callback_context(X, y, metadata)
        theta = self._starts(X, classes, coef_init, intercept_init)

        def unpack(theta):
            return {**self._attributes(theta, len(classes), X.dtype), "classes_": classes}

        def predict(theta, X):
            fitted = unpack(theta)
            z = safe_sparse_dot(X, fitted["coef_"].T, dense_output=True) + fitted["intercept_"]
            return classes[decide(z)]

        watch = self._watcher(context, X, y, metadata, unpack)
        score = validation_accuracy(held_out, predict)
        objective = self._objective(X, labels._replace(s=train))
        result, name = self._run(objective, theta, score, watch)
        if np.isinf(self.C) and result.status == "converged" and _recedes(objective, result.theta):
            result.status = "separable"
        vars(self).update(unpack(result.theta), solver_=name, class_weight_=labels.class_weight)
        self._keep_history([result])
        self._keep_starts([self._starts(X, classes, None, None)])
        self.n_iter_ = np.array([result.n_iter], dtype=np.int32)  # as the twin has it
        self._end_of_tasks(context, X, y, metadata)
        self._report([result])
        return self

    @streamed
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Make one stochastic pass over a batch of rows, going on from the calls before.

        The penalty is weighed against the rows seen so far, so that after all rows of a data set it is that
        of ``fit``. ``class_weight="balanced"`` counts the classes as they come.

        {stream}

        Parameters
        ----------
        {X}
        y : array-like of shape (n_samples,)
            Class labels.
        classes : array-like of shape (n_classes,), default=None
            All classes that will ever come; needed in the first call.
        {parameters}
        """
        with unchanged_on_error(self):
            X, labels, seen = self._check_batch(X, y, classes, sample_weight)
            classes = labels.classes
            theta = self._starts(X, classes, getattr(self, "coef_", None), getattr(self, "intercept_", None))
            objective = self._objective(X, labels, weight=seen[-1])
            kept, name = self._stream_step(objective, theta, (getattr(self, "_stream", None) or [None])[0])
            fitted = self._attributes(kept["state"]["theta"], len(classes), X.dtype)
            vars(self).update(fitted, classes_=classes, class_weight_=labels.class_weight, _seen=seen)
            self._keep_stream([kept], name)
        return self

    def _objective(self, X, labels, weight=None):
        """The objective over rows of that total weight, by default those of X."""
        from .losses import Logistic
        from .objective import LinearObjective
        from .penalties import ElasticNet
        from .softmax import SoftmaxObjective

        n_classes, codes = len(labels.classes), labels.codes
        blocks = self._blocks(X, codes.astype(np.intp if n_classes > 2 else np.float64), labels.s)
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

    @blockwise
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
        return probabilities(self._raw_predictions(X))

    @blockwise
    def predict_log_proba(self, X):
        """Logarithm of the probability of each class, computed without rounding to 0 on the way.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        return log_probabilities(self._raw_predictions(X))

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
    if state.value * objective.blocks.weight < np.log(2) * objective.blocks.smallest_weight():
        # so small a loss that every row is on its side: larger coefficients make it smaller still
        return True
    solver.advance(state)
    return objective.largest_change(state.theta - theta) > 0.1
