"""Support vector machines with a kernel: from labelled rows through the dual problems to fitted attributes.

The layout of ``dual_coef_`` is libsvm's. For each pair of classes (i, j) the dual variables of the support
vectors of class i are in row j - 1, those of class j in row i: a support vector has n_classes - 1 of them.
Where each class is fitted against the rest, each has a row.
"""

import itertools
import time

import numpy as np
from scipy.sparse import csr_array, issparse
from sklearn.svm import SVC
from sklearn.utils.extmath import row_norms, safe_sparse_dot
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from .base import GradientEstimator, copy_fitted
from .multiclass import binary_problems
from .validation import check_finite, check_weights, check_X, is_blockwise, is_dask

HARD = 1e10
SIMILARITIES = 1 << 20  # of rows and support vectors that a prediction holds at a time
KERNEL_ATTRIBUTES = (
    "kernel_",
    "support_",
    "support_vectors_",
    "n_support_",
    "dual_coef_",
    "shape_fit_",
)
LINEAR_ATTRIBUTES = ("coef_", "partial_fit", "sparsify", "densify")
STOPPED = ("callback", "interrupted")  # reasons to end the fit, and not a problem alone


class KernelClassifier(GradientEstimator):
    """The part of a support vector classifier that knows kernels."""

    @property
    def _cost(self):
        """C, finite also where no loss is allowed: by more than rounding that is the same."""
        return min(self.C, HARD)

    def _is_linear(self):
        """The one place that tells the kernels apart."""
        return isinstance(self.kernel, str) and self.kernel == "linear"

    def __getattr__(self, name):
        """Of what only kernels have, or only linear machines, an error that says how to come by it."""
        text = f"{type(self).__name__!r} object has no attribute {name!r}"  # Python's own words
        fitted = "classes_" in vars(self)
        if name in LINEAR_ATTRIBUTES and (fitted or not name.endswith("_")) and not self._is_linear():
            text += (
                f": it needs kernel='linear', got kernel={self.kernel!r}. Put a kernel approximation, such "
                "as sklearn.kernel_approximation.Nystroem, before a linear GDSVC instead"
            )
        elif name == "kernel_" and fitted:
            text += ": the kernel is the linear one"
        elif name in KERNEL_ATTRIBUTES and fitted:
            text += (
                ": a linear machine keeps its support vectors with multi_class='ovo' (for two classes too), "
                "where loss='hinge', the rows are in memory and the fit converges by solver='interior-point' "
                "or 'dual', one of which 'auto' takes"
            )
        raise AttributeError(text, name=name, obj=self)

    # -- the fit

    def _kernel_object(self, X, s):
        """A kernel of :mod:`skbigmodel.kernels`, a function, or ``"precomputed"``.

        Raises
        ------
        ValueError
            If the name is not known.
        """
        from .kernels import KERNELS, width

        if not isinstance(self.kernel, str) or self.kernel == "precomputed":
            return self.kernel
        if self.kernel not in KERNELS:
            known = ", ".join(map(repr, [*KERNELS, "precomputed"]))
            raise ValueError(
                f"kernel={self.kernel!r} is not known; it must be one of {known}, a kernel or a function"
            )
        return KERNELS[self.kernel](width(self.gamma, X, s), self.degree, self.coef0)

    def _check_rows(self, X, y):
        objects = self._objects(X)
        if objects is None:
            return super()._check_rows(X, y)
        y = column_or_1d(y, warn=True)
        check_consistent_length(objects, y)
        check_classification_targets(y)
        return objects, y

    def _objects(self, X):
        """Rows that are no numbers, as an array; ``None`` if they are, or the kernel is not a function."""
        if (
            not callable(self.kernel)
            or hasattr(self.kernel, "similarities")
            or not isinstance(X, (list, np.ndarray))
        ):
            return None
        if isinstance(X, list) and not any(isinstance(row, (str, bytes)) for row in X):
            return None
        X = np.asarray(X)
        return X if X.ndim == 1 and X.dtype.kind in "OUS" else None

    def _check_kernel_parameters(self, X, validation, start):
        """Refuse what only the linear kernel can do."""
        if is_dask(X):
            raise TypeError(
                "a kernel machine needs its rows in memory: call X.compute(), or map the rows by a kernel "
                "approximation and take kernel='linear'"
            )
        given = {
            "solver": self.solver not in ("auto", "working-set"),
            "l1_ratio": self.l1_ratio != 0.0,
            "early_stopping": self.early_stopping,
            "X_val, y_val and sample_weight_val": any(value is not None for value in validation),
            "coef_init and intercept_init": any(value is not None for value in start),
        }
        for name, is_given in given.items():
            if is_given:
                raise ValueError(
                    f"{name}: only with kernel='linear'. Kernels are solved in the dual, by working sets "
                    "(solver='auto')."
                )

    def _fit_kernel(self, X, y, sample_weight, validation, start):
        self._check_kernel_parameters(X, validation, start)
        X, y, labels = self._check_labelled(X, y, sample_weight)
        X = _in_memory(X)
        if X.ndim == 2:
            check_finite(self, self._blocks(X, labels.codes, None))
        if isinstance(self.kernel, str) and self.kernel == "precomputed" and X.shape[0] != X.shape[1]:
            raise ValueError(f"kernel='precomputed' needs a square matrix X, got one of shape {X.shape}")
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        machine = Machine(self, X, labels, check_weights(sample_weight, X))
        context = self._callback_context(X, y, metadata, len(machine.problems))

        known = {"classes_": labels.classes, "multi_class_": self._scheme()}

        def unpack(theta):
            machine.thetas[machine.current] = theta
            return {**machine.attributes(), **known}

        results = machine.solve(self._watcher(context, X, y, metadata, unpack))
        for name in ("coef_", "_resume"):
            vars(self).pop(name, None)
        vars(self).update(
            machine.attributes(), **known, solver_="working-set", class_weight_=labels.class_weight
        )
        self._keep_history(results)
        self.n_iter_ = np.array([result.n_iter for result in results], dtype=np.int32)
        self._end_of_tasks(context, X, y, metadata)
        self._report(results)
        return self

    def _forget_kernel(self):
        for name in KERNEL_ATTRIBUTES:
            vars(self).pop(name, None)

    # -- predictions

    def _kernel_predictions(self, X):
        """Raw predictions of each problem (n_samples, n_problems), some rows at a time."""
        check_is_fitted(self)
        objects = self._objects(X)
        X = _in_memory(check_X(self, X, reset=False, finite=True)) if objects is None else objects
        n_problems = len(self.intercept_)
        z = np.empty((X.shape[0], n_problems))
        step = max(1, SIMILARITIES // max(1, len(self.support_)))
        for a in range(0, X.shape[0], step):
            K = self._similarities(X[a : a + step])
            z[a : a + step] = self._combine(K) + self.intercept_
        return z

    def _combine(self, K):
        """Raw predictions without intercepts from the similarities (n_samples, n_support)."""
        n_classes, dual = len(self.classes_), _dense(self.dual_coef_)
        if n_classes == 2 or self.multi_class_ == "ovr":
            return K @ dual.T
        ends = np.append(0, np.cumsum(self.n_support_))
        parts = [K[:, a:b] @ dual[:, a:b].T for a, b in itertools.pairwise(ends)]
        pairs = [(i, j) for i in range(n_classes) for j in range(i + 1, n_classes)]
        return np.column_stack([parts[i][:, j - 1] + parts[j][:, i] for i, j in pairs])

    def _similarities(self, X):
        """Kernel of some rows with the support vectors (n_samples, n_support)."""
        if isinstance(self.kernel_, str):  # "precomputed"
            K = X[:, self.support_]
        elif not hasattr(self.kernel_, "similarities"):
            K = self.kernel_(X, self.support_vectors_)
        else:
            V = self.support_vectors_
            if getattr(self.kernel_, "centred", False) and not issparse(V) and len(V):
                centre = V.mean(axis=0, dtype=np.float64).astype(V.dtype)
                X, V = X - centre, V - centre
            t = safe_sparse_dot(X, V.T, dense_output=True)
            a, b = row_norms(X, squared=True), row_norms(V, squared=True)
            K = self.kernel_.similarities(t, a[:, None], b)
        return _dense(K)

    def _kernel_twin(self):
        """A fitted :class:`~sklearn.svm.SVC`."""
        if self.multi_class_ == "ovr" and len(self.classes_) > 2:
            raise ValueError("scikit-learn's SVC fits pairs of classes: use multi_class='ovo'")
        gamma = getattr(getattr(self, "kernel_", None), "gamma", 1.0)  # unless it has none
        twin = SVC(C=self.C, kernel=self.kernel, gamma=gamma, degree=self.degree, coef0=self.coef0,
                   break_ties=self.break_ties, decision_function_shape=self.decision_function_shape,
                   class_weight=self.class_weight)  # fmt: skip
        names = ("support_", "support_vectors_", "dual_coef_", "intercept_", "classes_", "n_iter_",
                 "n_features_in_", "feature_names_in_", "class_weight_", "shape_fit_")  # fmt: skip
        copy_fitted(self, twin, names)
        sign = -1.0 if len(self.classes_) == 2 else 1.0  # libsvm's positive class is the first
        twin._sparse, twin._gamma, twin.fit_status_ = issparse(self.support_vectors_), gamma, 0
        twin._n_support, twin._probA, twin._probB = self.n_support_, np.empty(0), np.empty(0)
        twin._effective_probability = False
        twin._dual_coef_, twin._intercept_ = sign * self.dual_coef_, sign * self.intercept_
        return twin


def _dense(A):
    return A.toarray() if issparse(A) else np.asarray(A)


def _in_memory(X):
    """A source that is read block by block, as an array."""
    if not is_blockwise(X):
        return X
    from .mapping import mapped
    from .rows import as_matrix
    from .slices import SlicedBlocks
    from .sources import stack

    blocks = SlicedBlocks(mapped(X), np.broadcast_to(0.0, X.shape[0]))
    return stack([as_matrix(block.rows, X.shape[1]) for block in blocks.visit()])


class Machine:
    """The dual problems of a fit, and how their solutions make the fitted attributes."""

    def __init__(self, estimator, X, labels, sample_weight):
        from .gram import ClassPairs, make_source
        from .threads import resolve_threads

        self.estimator, self.X, self.codes = estimator, X, labels.codes
        self.kernel = estimator._kernel_object(X, sample_weight)
        self.source = make_source(X, self.kernel)
        self.n_threads, self.n_bytes = resolve_threads(estimator.n_jobs), 1e6 * estimator.cache_size
        self.n_classes, s = len(labels.classes), np.ones(X.shape[0]) if labels.s is None else labels.s
        self.cost = estimator._cost * s
        self.members = [np.flatnonzero((s > 0) & (self.codes == k)) for k in range(self.n_classes)]
        self.problems = binary_problems(self.n_classes, estimator._scheme())
        self.thetas = [np.zeros(1) for _ in self.problems]  # dual variables, and last the intercept
        self.index = [self._rows_of(problem) for problem in self.problems]
        self.pairs = ClassPairs(self.source, self.members, self.n_bytes)
        self.stopped = False
        self.shared = None  # rows of the Gram matrix, where all problems have the same rows

    def _rows_of(self, problem):
        """The rows of a problem, those of a class side by side."""
        pair = problem.negative is not None
        classes = (problem.positive, problem.negative) if pair else range(self.n_classes)
        return np.concatenate([self.members[k] for k in classes])

    def solve(self, watch):
        """The result of each problem; small ones on threads, large ones use threads themselves."""
        from .gram import WHOLE
        from .solvers.driver import Control, minimize
        from .threads import run_tasks, single_threaded_blas

        results = [None] * len(self.problems)
        apart = watch is None and max(map(len, self.index)) <= WHOLE
        model, limit = self.estimator, self.estimator.max_time
        deadline = time.monotonic() + (limit or 0.0)

        def task(k):
            self.current = k
            max_time = None if limit is None else deadline - time.monotonic()
            control = Control(
                0 if self.stopped else model.max_iter, model.tol, model.loss_threshold, max_time, watch
            )
            results[k] = minimize(*self._posed(k, 1 if apart else self.n_threads), control)
            self.thetas[k] = results[k].theta
            self.stopped = self.stopped or results[k].status in STOPPED

        with single_threaded_blas:
            run_tasks(task, len(results), self.n_threads if apart else 1)
        return results

    def _posed(self, k, n_threads):
        """The solver of a problem and its start."""
        from .passes_kernel import make_box
        from .solvers.driver import Settings
        from .solvers.working_set import DualProblem, WorkingSet

        model, problem = self.estimator, self.problems[k]
        index, dual = self.index[k], model._margin_loss().dual
        y = np.where(self.codes[index] == problem.positive, 1.0, -1.0)
        free = model.fit_intercept and np.isinf(model.intercept_scaling)
        bias = model.intercept_scaling**2 if model.fit_intercept and not free else 0.0
        box = make_box(y, self.cost[index], dual)
        posed = DualProblem(self._gram_rows(problem, index, n_threads), box, dual, free, bias)
        return WorkingSet(posed, Settings(model.tol)), self._start(k, index, box)

    def _gram_rows(self, problem, index, n_threads):
        """The Gram matrix of a problem."""
        from .gram import WHOLE, GramRows

        if problem.negative is None:
            self.shared = self.shared or GramRows(self.source, index, self.n_bytes, n_threads)
            return self.shared
        matrix = None
        if len(index) <= WHOLE:
            matrix = self.pairs.matrix(problem.positive, problem.negative)
        return GramRows(self.source, index, self.n_bytes, n_threads, matrix)

    def _start(self, k, index, box):
        """Zeros, or the dual variables of the last fit as far as they are allowed here."""
        model, theta = self.estimator, np.zeros(len(index) + 1)
        same = getattr(model, "shape_fit_", None) == self.X.shape and hasattr(model, "dual_coef_")
        if model.warm_start and same and model.multi_class_ == model._scheme():
            beta = np.zeros(len(self.codes))
            beta[model.support_] = _of_problem(
                _dense(model.dual_coef_), self.codes[model.support_], k, self.problems
            )
            theta[:-1] = np.clip(beta[index], box.lo, box.hi)
        return theta

    def attributes(self):
        """Fitted attributes of the solutions so far."""
        parts = [(rows, theta[:-1]) for theta, rows in zip(self.thetas, self.index, strict=True)]
        known = support_attributes(self.X, self.codes, self.n_classes, self.problems, parts)
        given = isinstance(self.kernel, str)  # "precomputed"
        vectors = np.empty((0, 0)) if given else self.X[known["support_"]]
        intercepts = np.array([theta[-1] for theta in self.thetas])
        return {**known, "support_vectors_": vectors, "kernel_": self.kernel, "intercept_": intercepts}


def support_attributes(X, codes, n_classes, problems, parts):
    """The fitted attributes that tell which rows are support vectors, and their dual variables.

    ``parts`` are of each problem its rows and their dual variables, those of the negative class below zero.
    """
    support = np.zeros(len(codes), dtype=bool)
    for rows, beta in parts:
        support[rows[np.flatnonzero(beta)]] = True
    support = np.flatnonzero(support)
    support = support[np.argsort(codes[support], kind="stable")]
    place = np.full(len(codes), -1)
    place[support] = np.arange(len(support))
    pairs = problems[0].negative is not None
    dual = np.zeros((n_classes - 1 if pairs else len(problems), len(support)))
    for k, (rows, beta) in enumerate(parts):
        there = np.flatnonzero(beta)
        dual[_dual_rows(codes[rows[there]], k, problems), place[rows[there]]] = beta[there]
    if issparse(X):  # as SVC has it: all entries are stored
        columns = np.tile(np.arange(dual.shape[1]), dual.shape[0])
        dual = csr_array((dual.ravel(), columns, np.arange(dual.shape[0] + 1) * dual.shape[1]), dual.shape)
    return {
        "support_": support.astype(np.int32),
        "n_support_": np.bincount(codes[support], minlength=n_classes).astype(np.int32),
        "dual_coef_": dual,
        "shape_fit_": X.shape,
    }


def _dual_rows(codes, k, problems):
    """The row of ``dual_coef_`` that holds the dual variables in problem k of rows of these classes."""
    problem = problems[k]
    if problem.negative is None:
        return np.full(len(codes), k)
    return np.where(codes == problem.positive, problem.negative - 1, problem.positive)


def _of_problem(dual, codes, k, problems):
    """The dual variables in problem k of support vectors of these classes."""
    return dual[_dual_rows(codes, k, problems), np.arange(len(codes))]
