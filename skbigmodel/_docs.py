"""Text that the docstrings of several estimators share, in one place."""

PARAMETERS = """
    solver : str or class, default="auto"
        How to descend. ``"auto"`` picks the fastest that reaches the optimum; ``solver_`` tells which.
        ``"gd"`` is plain full-batch gradient descent, ``"nesterov"`` accelerated proximal gradient,
        ``"lbfgs"``, ``"newton"``, ``"newton-cg"`` and ``"cd"`` (coordinate descent) use curvature,
        ``"saga"``, ``"sgd"`` and ``"adam"`` are stochastic, ``"least-squares"`` is direct and
        ``"interior-point"`` is for piecewise linear losses, and ``"dual"`` (coordinate descent in the dual)
        for the losses of ``GDSVC``. scikit-learn's ``"newton-cholesky"``,
        ``"liblinear"`` and ``"sag"`` mean ``"auto"``. A class of your own follows the protocol of
        :mod:`skbigmodel.solvers.driver`.
    learning_rate : "auto" or float, default="auto"
        Step length of ``"gd"``, ``"nesterov"``, ``"sgd"``, ``"adam"`` and ``"saga"``, in units of parameter
        per unit of gradient of the mean loss. With ``"auto"`` the solver finds its own, and columns may have
        any scale.
    batch_size : int, default=None
        Rows per step of the stochastic solvers; ``None`` lets them choose.
    max_iter : int, default=1000
        Iterations at most; epochs for the stochastic solvers.
    tol : float, default=1e-4
        The fit has converged when no entry of the (sub)gradient of the mean objective exceeds ``tol`` and the
        estimated relative gap to the optimum, which does not depend on the scale of the columns, is at most
        ``1e-5 * tol``.
    loss_threshold : float, default=None
        Stop as soon as an entry of ``loss_curve_`` is at most this.
    max_time : float, default=None
        Stop after so many seconds.
    early_stopping : bool, default=False
        Hold out ``validation_fraction`` of the rows, stop when their score has not improved for
        ``n_iter_no_change`` iterations, and keep the best iterate. Rows passed to ``fit`` as ``X_val, y_val``
        do the same without it.
    validation_fraction : float, default=0.1
        Share of rows held out, stratified by class in a classifier.
    n_iter_no_change : int, default=5
        Iterations without a better validation score before the fit stops.
    init : {"zeros", "random"}, default="zeros"
        Starting point, unless ``coef_init`` or ``intercept_init`` is passed to ``fit``.
    average : bool or int, default=False
        Average the iterates of the stochastic solvers, from that epoch on.
    warm_start : bool, default=False
        Start from the coefficients of the last fit; on the same data and parameters the solver goes on
        exactly where it stopped.
    random_state : int, RandomState instance or None, default=None
        Seed of the stochastic solvers, the held-out rows and ``init="random"``.
    n_jobs : int, default=None
        Threads in one fit. ``None`` means the processors this process may use, capped by what joblib or the
        environment grants a worker. Results do not depend on it, bit for bit.
    verbose : int, default=0
        1 prints at most once a second and at the end, 2 every iteration.
""".strip()

ATTRIBUTES = """
    solver_ : str
        The solver used.
    loss_curve_ : list of float
        Objective in its mean form after each iteration.
    optimality_ : float
        Largest entry of the smallest (sub)gradient of the mean objective at the solution.
    validation_scores_ : list of float
        Score of the validation rows after each iteration, where there are any.
    n_features_in_ : int
        Number of features seen in ``fit``.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen in ``fit``, if all are strings.
""".strip()

X = """
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Also a memmap, or anything with a shape, a dtype and slices of rows, such as an HDF5 data set;
            what is not a float array in C order on disk is read block by block. Dask arrays and DataFrames
            stay where they lie.
""".strip()

SAMPLE_WEIGHT = """
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, not negative. Weight 2 counts a row twice, weight 0 leaves it out.
""".strip()

FIT_PARAMETERS = f"""
{SAMPLE_WEIGHT}
        X_val, y_val : array-like, default=None
            Validation rows: their score is kept in ``validation_scores_``, stops the fit when it has not
            improved for ``n_iter_no_change`` iterations, and chooses the iterate.
        sample_weight_val : array-like, default=None
            Weights of the validation rows.
        coef_init, intercept_init : array-like, default=None
            Starting point, shaped as ``coef_`` and ``intercept_``.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If an argument is not valid; the message names it. A fitted estimator stays as it was.

        Warns
        -----
        ConvergenceWarning
            If the optimum was not reached; the message says what to do.
""".strip()

STREAM = """
        ``early_stopping``, ``tol`` and ``max_iter`` play no role. After a ``fit`` the stream starts at its
        coefficients.
""".strip()

PARTIAL_FIT_PARAMETERS = f"""
{SAMPLE_WEIGHT}

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If an argument is not valid, X has another number of features than before, or ``solver`` is not
            stochastic; the message says so. A fitted estimator stays as it was.
""".strip()


def documented(cls):
    """Fill the shared text into the docstrings of a class, its ``fit`` and its ``partial_fit``."""
    fill(cls, parameters=PARAMETERS, attributes=ATTRIBUTES)
    fill(cls.fit, X=X, parameters=FIT_PARAMETERS)
    fill(cls.partial_fit, X=X, parameters=PARTIAL_FIT_PARAMETERS, stream=STREAM)
    return cls


def fill(documented, **texts):
    """Put each text in the place of its name in braces."""
    if documented.__doc__ is None:  # python -OO
        return
    for name, text in texts.items():
        documented.__doc__ = documented.__doc__.replace("{" + name + "}", text)
