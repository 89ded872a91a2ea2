"""The support vector classifier."""

from numbers import Integral, Real

import numpy as np
from scipy.sparse import csr_array, issparse
from sklearn.base import _fit_context
from sklearn.callback import with_callbacks
from sklearn.svm import LinearSVC
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ._docs import documented
from .base import copy_fitted, streamed
from .classification import GradientClassifier, validation_accuracy
from .kernel_classifier import KernelClassifier, support_attributes
from .linear import LinearEstimator
from .multiclass import binary_problems, count_votes, scores_of_pairs
from .validation import as_float, by_row, is_mapped, unchanged_on_error

linear_only = available_if(lambda model: model._is_linear())


@documented
class GDSVC(KernelClassifier, GradientClassifier, LinearEstimator):
    r"""Support vector machine for classification: the soft-margin classifier, at its exact optimum.

    For two classes it minimises, over coefficients :math:`w` and intercept :math:`b`,

    .. math::

        \frac{1}{2} \|w\|_2^2 + C \sum_i s_i\, \ell(t_i, x_i^\top w + b), \qquad
        \ell(t, f) = \max(0, 1 - t f) \;\text{ or its square}

    where :math:`t_i = \pm 1` stands for the class of a row and :math:`s_i` is its sample weight times the
    weight of its class. The intercept is not penalised, unless ``intercept_scaling`` is finite. With the
    hinge loss this is :class:`~sklearn.svm.SVC` with a linear kernel; with ``intercept_scaling=1`` it is
    :class:`~sklearn.svm.LinearSVC` of the same loss.

    With a ``kernel`` k the rows are mapped to where their inner products are k, and the same is minimised
    there, by way of the dual problem: :math:`f(x) = \sum_i \beta_i\, k(x_i, x) + b`. That is
    :class:`~sklearn.svm.SVC`.

    Three or more classes make several such problems: one for each class against the rest, or one for each
    pair.

    Parameters
    ----------
    C : float, default=1.0
        Weight of the losses against the penalty: a smaller ``C`` is a stronger penalty. ``np.inf``, which
        asks for a hard margin, is taken as 1e10.
    kernel : {"linear", "rbf", "poly", "sigmoid", "precomputed"}, object or function, default="linear"
        The kernel, see :mod:`skbigmodel.kernels`. ``"precomputed"`` means that ``X`` is the Gram matrix. A
        function is called with two sets of rows and returns the matrix of their similarities; for it X may
        also be a list of texts, or a one-dimensional array of other objects.
    loss : {"hinge", "squared_hinge"} or loss object, default="hinge"
        Loss of a row.
    degree : int, default=3
        Degree of ``"poly"``.
    gamma : {"scale", "auto"} or float, default="scale"
        Width of ``"rbf"``, ``"poly"`` and ``"sigmoid"``: ``"scale"`` is
        ``1 / (n_features * X.var())``, ``"auto"`` is ``1 / n_features``.
    coef0 : float, default=0.0
        Constant of ``"poly"`` and ``"sigmoid"``.
    intercept_scaling : float, default=np.inf
        A finite value B adds :math:`\frac{1}{2} (b/B)^2` to the objective, as ``LinearSVC`` does.
    multi_class : {"auto", "ovr", "ovo"}, default="auto"
        For three or more classes: ``"ovr"``, each class against the rest, which is ``"auto"`` for the linear
        kernel, or ``"ovo"``, each pair of classes, which is ``"auto"`` for the others.
    decision_function_shape : {"ovr", "ovo"}, default="ovr"
        What ``decision_function`` returns where pairs of classes were fitted: a score for each class, or the
        raw predictions of the pairs.
    break_ties : bool, default=False
        With pairs of classes: whether ``predict`` follows the scores of ``decision_function``, and not the
        first class with the most votes.
    cache_size : float, default=200
        Megabytes for rows of the Gram matrix that are kept, with kernels other than the linear one. It
        changes the time, never the result.
    fit_intercept : bool, default=True
        Whether there are intercepts.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class. ``"balanced"`` makes the classes equal in total weight; in ``partial_fit`` by
        counts of the rows so far.
    l1_ratio : float, default=0.0
        Share of the l1 norm in the penalty, which becomes :math:`\rho \|w\|_1 + (1 - \rho)/2\, \|w\|_2^2`.
    {parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted.
    class_weight_ : ndarray of shape (n_classes,)
        Weight of each class.
    multi_class_ : str
        ``"ovr"`` or ``"ovo"``.
    coef_ : ndarray of shape (1, n_features), (n_classes, n_features) or (n_pairs, n_features)
        Coefficients; float32 if X is. Pairs come in the order (0, 1), (0, 2), …, (1, 2), …; a positive raw
        prediction is for the first class of a pair, for the second class where there are only two.
        Only with the linear kernel. As in ``SVC``, pairs fitted on sparse rows have it as a CSR array.
    intercept_ : ndarray of shape (1,), (n_classes,) or (n_pairs,)
        Intercepts; zeros without one.
    kernel_ : kernel object, function or "precomputed"
        The kernel with its width, for kernels other than the linear one.
    support_ : ndarray of shape (n_support,)
        Rows that are support vectors, class by class. This and all up to ``dual_coef_`` belong to kernels. A
        linear machine is small without them: it keeps them, as ``SVC`` does, with ``multi_class="ovo"``,
        where the loss is the hinge, the rows are in memory and the fit converged by ``"interior-point"`` or
        ``"dual"``, one of which ``"auto"`` takes.
    support_vectors_ : ndarray or CSR matrix of shape (n_support, n_features)
        These rows; empty where the kernel is precomputed.
    n_support_ : ndarray of shape (n_classes,)
        Support vectors of each class.
    dual_coef_ : ndarray of shape (1, n_support), (n_classes - 1, n_support) or (n_classes, n_support)
        Dual variables times the sign of the class, in the layout of ``SVC`` for two classes and for pairs;
        one row for each class against the rest.
    n_iter_ : int, or ndarray of shape (n_problems,) where pairs or kernels were fitted
        Iterations run, the largest number of all problems or that of each.
    {attributes}

    See Also
    --------
    GDLogisticClassifier : A linear model with probabilities.
    sklearn.calibration.CalibratedClassifierCV : Gives this classifier probabilities.

    References
    ----------
    .. [1] Cortes, C. and Vapnik, V. (1995). "Support-vector networks". Machine Learning 20.
    .. [2] Fan, R.-E., Chang, K.-W., Hsieh, C.-J., Wang, X.-R. and Lin, C.-J. (2008). "LIBLINEAR: a library
       for large linear classification". JMLR 9.

    Examples
    --------
    >>> from skbigmodel import GDSVC
    >>> X = [[-1.0], [1.0]]
    >>> model = GDSVC(C=0.25).fit(X, ["no", "yes"])
    >>> model.coef_
    array([[0.5]])
    >>> model.predict([[0.1], [-3.0]])
    array(['yes', 'no'], dtype='<U3')

    No line tells the inside of an interval from its outside:

    >>> model = GDSVC(C=10, kernel="rbf").fit([[-2.0], [-1.0], [1.0], [2.0]], [0, 1, 1, 0])
    >>> model.predict([[0.0], [3.0]])
    array([1, 0])
    """

    _parameter_constraints = {
        **GradientClassifier._parameter_constraints,
        **LinearEstimator._parameter_constraints,
        "C": [Interval(Real, 0, None, closed="right")],
        "kernel": [str, callable, HasMethods(["similarity", "similarities"])],
        "loss": [str, HasMethods(["value", "derivative"])],
        "degree": [Interval(Integral, 0, None, closed="left")],
        "gamma": [StrOptions({"scale", "auto"}), Interval(Real, 0, None, closed="left")],
        "coef0": [Interval(Real, None, None, closed="neither")],
        "intercept_scaling": [Interval(Real, 0, None, closed="right")],
        "multi_class": [StrOptions({"auto", "ovr", "ovo"})],
        "decision_function_shape": [StrOptions({"ovr", "ovo"})],
        "break_ties": ["boolean"],
        "cache_size": [Interval(Real, 0, None, closed="neither")],
        "l1_ratio": [Interval(Real, 0, 1, closed="both")],
    }

    def __init__(
        self,
        *,
        C=1.0,
        kernel="linear",
        loss="hinge",
        degree=3,
        gamma="scale",
        coef0=0.0,
        intercept_scaling=np.inf,
        multi_class="auto",
        decision_function_shape="ovr",
        break_ties=False,
        cache_size=200,
        fit_intercept=True,
        class_weight=None,
        l1_ratio=0.0,
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
        self.kernel = kernel
        self.loss = loss
        self.degree = degree
        self.gamma = gamma
        self.coef0 = coef0
        self.intercept_scaling = intercept_scaling
        self.multi_class = multi_class
        self.decision_function_shape = decision_function_shape
        self.break_ties = break_ties
        self.cache_size = cache_size
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.l1_ratio = l1_ratio
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
        validation, start = (X_val, y_val, sample_weight_val), (coef_init, intercept_init)
        with unchanged_on_error(self):
            self._forget_stream()
            if not self._is_linear():
                return self._fit_kernel(X, y, sample_weight, validation, start)
            self._forget_kernel()
            return self._fit(X, y, sample_weight, validation, start)

    def _fit(self, X, y, sample_weight, validation, start):
        X, y, labels = self._check_labelled(X, y, sample_weight)
        classes = labels.classes
        train, held_out = self._validation_split(X, y, labels.s, validation, stratify=labels.codes)
        problems = binary_problems(len(classes), self._scheme())
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        context = self._callback_context(X, y, metadata, len(problems))
        thetas = self._starts(X, len(problems), *start)
        results, names, duals = [], [], []
        for k, blocks in enumerate(self._sources(X, labels.codes, train, problems)):

            def unpack(theta, k=k):
                thetas[k] = theta
                return {**self._attributes(thetas, X.dtype), "classes_": classes}

            score = self._scorer(held_out, classes, problems[k])
            watch = self._watcher(context, X, y, metadata, unpack)
            objective = self._objective(blocks)
            result, name = self._run(objective, thetas[k].copy(), score, watch, k)
            fitted = unpack(result.theta)
            results.append(result)
            names.append(name)
            duals.append(self._duals(X, result, objective))
        vars(self).update(fitted, solver_=names[0], class_weight_=labels.class_weight)
        self._keep_history(results)
        self._keep_starts(self._starts(X, len(problems), None, None))
        if self.multi_class_ == "ovo":  # as SVC has it
            self.n_iter_ = np.array([result.n_iter for result in results], dtype=np.int32)
            self.coef_ = csr_array(self.coef_) if issparse(X) else self.coef_
        if all(dual is not None for dual in duals):
            self._keep_support(X, labels, problems, duals)
        self._end_of_tasks(context, X, y, metadata)
        self._report(results)
        return self

    def _duals(self, X, result, objective):
        """Dual variables per unit of weight, where support vectors are kept and these are known."""
        if self.multi_class != "ovo" or not _is_in_memory(X) or objective.loss.smooth:
            return None
        if result.status != "converged" or not hasattr(result.state, "duals"):
            return None
        return result.state.duals(objective)

    def _keep_support(self, X, labels, problems, duals):
        cost, parts = self._cost * (np.ones(X.shape[0]) if labels.s is None else labels.s), []
        for problem, dual in zip(problems, duals, strict=True):
            _, part = problem.split(labels.codes)
            rows = np.arange(X.shape[0]) if part is None else np.flatnonzero(part)
            parts.append((rows, cost[rows] * dual))
        vars(self).update(support_attributes(X, labels.codes, len(labels.classes), problems, parts))
        self.support_vectors_ = X[self.support_]

    @linear_only
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
            problems = binary_problems(len(labels.classes), self._scheme())
            thetas = self._starts(
                X, len(problems), getattr(self, "coef_", None), getattr(self, "intercept_", None)
            )
            kept = list(getattr(self, "_stream", None) or [None] * len(problems))
            for k, blocks in enumerate(self._sources(X, labels.codes, labels.s, problems)):
                if not blocks.weight > 0.0:  # no row of this pair in the batch
                    continue
                pair = [i for i in problems[k] if i is not None]
                weight = seen[:-1][pair] @ labels.class_weight[pair] if len(pair) > 1 else seen[-1]
                kept[k], name = self._stream_step(self._objective(blocks, weight), thetas[k], kept[k])
                thetas[k] = kept[k]["state"]["theta"]
            fitted = self._attributes(thetas, X.dtype)
            self._forget_kernel()  # support vectors are those of a fit
            vars(self).update(fitted, classes_=labels.classes, class_weight_=labels.class_weight, _seen=seen)
            self._keep_stream(kept, name)
        return self

    # -- the binary problems

    def _scheme(self):
        if self.multi_class != "auto":
            return self.multi_class
        return "ovr" if self._is_linear() else "ovo"

    def _sources(self, X, codes, s, problems):
        """The blocks of each problem in turn; the rows are shared, or those of a pair are taken out."""
        from .slices import make_blocks
        from .threads import resolve_threads

        blocks, n_threads = None, resolve_threads(self.n_jobs)
        for problem in problems:
            y, part = problem.split(codes)
            if part is None:
                blocks = make_blocks(X, y, s, n_threads) if blocks is None else blocks.with_targets(y)
                yield blocks
            elif _is_in_memory(X) and part.any():  # a sparse or dense copy of the pair's rows
                yield make_blocks(X[part], y[part], None if s is None else s[part], n_threads)
            else:
                yield make_blocks(X, y, by_row(_weights_of, part, *([] if s is None else [s])), n_threads)

    def _margin_loss(self):
        from .losses import MARGIN_LOSSES

        if not isinstance(self.loss, str):
            return self.loss
        if self.loss not in MARGIN_LOSSES:
            raise ValueError(
                f"loss={self.loss!r} is not known; it must be one of {sorted(MARGIN_LOSSES)}, or an object"
            )
        return MARGIN_LOSSES[self.loss]()

    def _objective(self, blocks, weight=None):
        """The objective of a problem over rows of that total weight, by default its own."""
        from .objective import LinearObjective
        from .penalties import ElasticNet

        loss = self._margin_loss()
        strength = 1.0 / (self._cost * (weight or blocks.weight or 1.0))
        of_intercept = strength / self.intercept_scaling**2 if self.fit_intercept else 0.0
        penalty = ElasticNet(
            float(strength * self.l1_ratio), float(strength * (1 - self.l1_ratio)), False, float(of_intercept)
        )
        return LinearObjective(blocks, loss, penalty, bool(self.fit_intercept))

    def _starts(self, X, n_problems, coef_init, intercept_init):
        """Starting points (n_problems, n_params): given, kept from the last fit, or as ``init`` says."""
        shape = (n_problems, X.shape[1])
        if self.warm_start and getattr(self, "coef_", np.empty(0)).shape == shape and coef_init is None:
            coef_init, intercept_init = self.coef_, self.intercept_
        return self._pack(shape, coef_init, intercept_init)

    def _attributes(self, thetas, dtype):
        """Fitted attributes of parameter vectors (n_problems, n_params)."""
        coef = np.array(thetas[:, : thetas.shape[1] - self.fit_intercept], dtype=as_float(dtype))
        intercept = thetas[:, -1] if self.fit_intercept else np.zeros(len(thetas))
        return {"coef_": coef, "intercept_": intercept.astype(coef.dtype), "multi_class_": self._scheme()}

    def _scorer(self, held_out, classes, problem):
        """Accuracy on the held-out rows of a problem of an iterate; ``None`` without such."""
        if held_out is None:
            return None
        X, y, s = held_out
        codes = np.searchsorted(classes, y).clip(max=len(classes) - 1)
        y, part = problem.split(np.where(classes[codes] == y, codes, -1))
        if part is not None:
            rows = np.flatnonzero(part)
            X, y, s = X[rows], y[rows], None if s is None else s[rows]

        def predict(theta, X):
            z = safe_sparse_dot(X, theta[: X.shape[1]]) + (theta[-1] if self.fit_intercept else 0.0)
            return (z > 0).astype(np.float64)

        return validation_accuracy((X, y, s), predict)

    # -- predictions

    def _raw_predictions(self, X):
        """Raw predictions of each problem (n_samples, n_problems)."""
        check_is_fitted(self)
        linear = hasattr(self, "coef_")
        return super()._raw_predictions(X) if linear else self._kernel_predictions(X)

    def _scores(self, z):
        """What raw predictions give as a decision function; of pairs of classes a score for each class."""
        if z.shape[1] == 1 or self.multi_class_ == "ovr" or self.decision_function_shape == "ovo":
            return super()._scores(z)
        return scores_of_pairs(z, len(self.classes_))

    def _check_prediction(self):
        if self.break_ties and self.decision_function_shape == "ovo":
            raise ValueError("break_ties must be False when decision_function_shape is 'ovo'")

    def _labels_of(self, z):
        """The labels that raw predictions stand for; of pairs of classes those with the most votes."""
        if z.shape[1] == 1 or self.multi_class_ == "ovr":
            return super()._labels_of(z)
        scores = (scores_of_pairs if self.break_ties else count_votes)(z, len(self.classes_))
        return self.classes_[scores.argmax(axis=1)]

    @linear_only
    def densify(self):
        """Make ``coef_`` an array again; see :meth:`sparsify`."""
        return super().densify()

    @linear_only
    def sparsify(self):
        """Make ``coef_`` a sparse matrix, which is smaller where most coefficients are zero."""
        return super().sparsify()

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = isinstance(self.kernel, str) and self.kernel == "precomputed"
        return tags

    def to_sklearn(self):
        """A fitted :class:`~sklearn.svm.LinearSVC`, or with a kernel or for pairs of classes
        :class:`~sklearn.svm.SVC`, that predicts the same.

        For exporters such as ONNX converters, which know scikit-learn's classes.

        Raises
        ------
        ValueError
            If with a kernel each class was fitted against the rest, or linear models of pairs have no support
            vectors: scikit-learn has no such model.
        """
        check_is_fitted(self)
        if not hasattr(self, "coef_"):
            return self._kernel_twin()
        if self.coef_.shape[0] > 1 and self.multi_class_ == "ovo":
            if not hasattr(self, "support_vectors_"):
                raise ValueError(
                    "scikit-learn's model of pairs of classes needs support_vectors_, which this fit does "
                    "not have: use multi_class='ovr'"
                )
            return self._kernel_twin()
        twin = LinearSVC(C=self.C, fit_intercept=self.fit_intercept, class_weight=self.class_weight)
        names = ("coef_", "intercept_", "classes_", "n_features_in_", "feature_names_in_", "n_iter_")
        return copy_fitted(self, twin, names)


def _is_in_memory(X):
    return issparse(X) or isinstance(X, np.ndarray) and not is_mapped(X)


def _weights_of(part, s=1.0):
    """Weights of the rows, of which only some take part."""
    return part * s
