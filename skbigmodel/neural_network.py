"""Multi-layer perceptrons."""

import copy
import warnings
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from scipy.sparse import issparse
from scipy.special import expit, log_expit
from sklearn.base import _fit_context
from sklearn.callback import with_callbacks
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import assert_all_finite, check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted

from ._docs import SAMPLE_WEIGHT, fill
from ._docs import X as X_TEXT
from .base import copy_fitted
from .classification import GradientClassifier, decide, log_probabilities, probabilities
from .validation import (
    as_float,
    as_labels,
    check_finite,
    check_weights,
    check_X,
    is_blockwise,
    unchanged_on_error,
)

ACTIVATIONS = (
    *("identity", "logistic", "tanh", "relu"),
    *("leaky_relu", "elu", "selu", "gelu", "silu", "mish"),
)
INITS = tuple(f"{scheme}_{law}" for scheme in ("glorot", "he", "lecun") for law in ("uniform", "normal"))
STOCHASTIC = ("sgd", "adam")
DEFAULT_BATCH = 200
LOOKED_AT = 1000  # rows of X whose scale is looked at
SPREAD = 100.0  # of the columns' scales, that is too much for gradient steps


class Coded(NamedTuple):
    """Checked targets of a fit."""

    classes: np.ndarray
    Y: np.ndarray  # int32: (n, 1) indices of classes, or (n, n_classes) indicators of several labels
    s: np.ndarray | None  # sample weights times class weights; None where all are 1
    class_weight: np.ndarray | None

    @property
    def n_outputs(self):
        """Raw outputs of a row: one for two classes."""
        return self.Y.shape[1] if self.Y.shape[1] > 1 or len(self.classes) == 2 else len(self.classes)

    @property
    def softmax(self):
        """Whether a row has one class of three or more."""
        return self.Y.shape[1] == 1 and len(self.classes) > 2


class GDMLPClassifier(GradientClassifier):
    r"""Multi-layer perceptron: layers of weighted sums with a bend between them.

    Minimises, over weight matrices :math:`W_k` and biases :math:`b_k`, by steps over batches :math:`B` of
    rows,

    .. math::

        \frac{1}{\sum_{i \in B} s_i} \Bigl( \sum_{i \in B} s_i\, \ell(y_i, f_i)
        + \frac{\alpha}{2} \sum_k \|W_k\|_2^2 \Bigr), \qquad
        f = W_L^\top a_{L-1} + b_L, \quad a_k = \varphi(W_k^\top a_{k-1} + b_k), \quad a_0 = x

    where :math:`s_i` is the sample weight times the weight of the row's class and :math:`\ell` is the
    log-loss for two classes, the softmax cross-entropy for more, and the sum of the log-losses of the columns
    if y holds several labels of a row. Biases are not penalised. As in scikit-learn the penalty is divided by
    the weight of the batch, so that its strength depends on the size of the batch.

    This is :class:`~sklearn.neural_network.MLPClassifier`: parameters of the same name mean the same, and
    with the same ``random_state`` training takes the same course up to rounding.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int, default=(100,)
        Units of each hidden layer.
    activation : str or activation object, default="relu"
        :math:`\varphi`: ``"identity"``, ``"logistic"``, ``"tanh"``, ``"relu"``, ``"leaky_relu"``, ``"elu"``,
        ``"selu"``, ``"gelu"``, ``"silu"`` or ``"mish"``, an object of :mod:`skbigmodel.activations` such as
        ``LeakyRelu(slope=0.1)``, or one of your own.
    solver : {"adam", "sgd", "lbfgs"} or optimizer object, default="adam"
        ``"adam"`` and ``"sgd"`` step over batches of rows, ``"lbfgs"`` uses all rows at a time and suits small
        data. An object of :mod:`skbigmodel.optimizers`, or one of your own, steps over batches.
    alpha : float, default=0.0001
        Strength of the penalty.
    batch_size : int or "auto", default="auto"
        Rows per step; ``"auto"`` means ``min(200, n_samples)``.
    learning_rate : {"constant", "invscaling", "adaptive"}, default="constant"
        ``"invscaling"`` divides ``learning_rate_init`` by the number of rows seen to the power ``power_t``,
        ``"adaptive"`` divides the rate by 5 where training would end for lack of progress, until it is below
        1e-6. Only for ``solver="sgd"``.
    learning_rate_init : float, default=0.001
        Learning rate.
    power_t : float, default=0.5
        Exponent of ``"invscaling"``.
    max_iter : int, default=200
        Epochs at most (``"lbfgs"``: iterations).
    shuffle : bool, default=True
        Whether rows come in a new order in each epoch.
    random_state : int, RandomState instance or None, default=None
        Seed of the initial weights, the order of rows, the held-out rows and dropout.
    tol : float, default=1e-4
        Training ends when for more than ``n_iter_no_change`` epochs neither the training loss nor, where
        there are validation rows, their score has improved by at least ``tol``. ``"lbfgs"`` ends when no
        entry of the gradient exceeds it.
    verbose : bool or int, default=False
        1 prints at most once a second and at the end, 2 every epoch.
    warm_start : bool, default=False
        Go on from the weights of the last fit, with the state of the optimizer, the order of rows and the
        held-out rows as they were: two fits of ten epochs are one of twenty, to the bit. ``loss_curve_``
        goes on, too; ``n_iter_`` counts the epochs of the last fit.
    momentum : float, default=0.9
        Momentum of ``"sgd"``.
    nesterovs_momentum : bool, default=True
        Whether the momentum of ``"sgd"`` is Nesterov's.
    early_stopping : bool, default=False
        Hold out ``validation_fraction`` of the rows, judge progress by their accuracy, and keep the weights of
        the best epoch. Not for ``"lbfgs"``.
    validation_fraction : float, default=0.1
        Share of rows held out; stratified for two classes.
    beta_1, beta_2 : float, default=0.9, 0.999
        Decay per step of the two running means of ``"adam"``.
    epsilon : float, default=1e-8
        Keeps the quotient of ``"adam"`` finite.
    n_iter_no_change : int or np.inf, default=10
        Epochs without progress that are put up with.
    max_fun : int, default=15000
        Evaluations of ``"lbfgs"`` at most.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class. ``"balanced"`` makes the classes equal in total weight; in ``partial_fit`` by
        counts of the rows so far.
    dropout : float, default=0.0
        Probability with which a hidden unit is left out of a step.
    weight_decay : float, default=0.0
        Decoupled decay (AdamW): weights also shrink by ``weight_decay`` times the rate in each step.
    label_smoothing : float, default=0.0
        Share of each target that is spread over all classes evenly.
    clip_norm : float, default=None
        Largest norm of the gradient of a step; longer ones are shortened to it.
    lr_schedule : {"cosine", "coslog4", "onecycle"} or callable, default=None
        Factor of the rate at a share t of the ``max_iter`` epochs, 0 <= t <= 1; a callable gets t. Training
        then ends with the schedule, without a warning.
    init : str, default="glorot_uniform"
        Law of the initial weights: ``"glorot_uniform"`` as in scikit-learn, ``"glorot_normal"``,
        ``"he_uniform"``, ``"he_normal"``, ``"lecun_uniform"`` or ``"lecun_normal"``. Biases start at 0, but for
        the first of these, which draws them, too.
    loss_threshold : float, default=None
        Stop as soon as an entry of ``loss_curve_`` is at most this.
    max_time : float, default=None
        Stop after so many seconds, at the end of an epoch.
    n_jobs : int, default=None
        Threads of one fit, which large networks use. ``None`` means the processors this process may use,
        capped by what joblib or the environment grants a worker. Results do not depend on it, bit for bit.
    preset : None, default=None
        Reserved.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted.
    class_weight_ : ndarray of shape (n_classes,) or None
        Weight of each class; None for several labels of a row.
    coefs_ : list of ndarray of shape (n_units_before, n_units)
        Weights of each layer; float32 if X is.
    intercepts_ : list of ndarray of shape (n_units,)
        Biases of each layer.
    loss_ : float
        Last entry of ``loss_curve_``.
    best_loss_ : float or None
        Smallest training loss; None where validation rows judge.
    loss_curve_ : list of float
        Mean loss of each epoch, penalty included, as the batches had it before their steps.
    validation_scores_ : list of float or None
        Accuracy of the validation rows after each epoch, where there are any.
    best_validation_score_ : float or None
        Largest of these.
    n_iter_ : int
        Epochs of the last fit.
    t_ : int
        Rows seen, over all epochs.
    solver_ : str
        The solver used.
    n_layers_ : int
        Number of layers, input and output included.
    n_outputs_ : int
        Number of raw outputs.
    out_activation_ : str
        ``"logistic"`` or ``"softmax"``.
    n_features_in_ : int
        Number of features seen in ``fit``.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen in ``fit``, if all are strings.

    See Also
    --------
    GDLogisticClassifier : The network without hidden layers, whose optimum is unique.

    References
    ----------
    .. [1] Glorot, X. and Bengio, Y. (2010). "Understanding the difficulty of training deep feedforward neural
       networks". AISTATS.
    .. [2] Kingma, D. P. and Ba, J. (2015). "Adam: a method for stochastic optimization". ICLR.
    .. [3] Loshchilov, I. and Hutter, F. (2019). "Decoupled weight decay regularization". ICLR.
    .. [4] Srivastava, N. et al. (2014). "Dropout: a simple way to prevent neural networks from overfitting".
       JMLR 15.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skbigmodel import GDMLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> network = GDMLPClassifier(hidden_layer_sizes=(20,), solver="lbfgs", alpha=0.1, random_state=0)
    >>> model = make_pipeline(StandardScaler(), network).fit(X, y)
    >>> model.predict(X[:2])
    array([0, 0])
    >>> print(f"{model.score(X, y):.2f}")
    0.99
    """

    _parameter_constraints = {
        **MLPClassifier._parameter_constraints,
        "activation": [StrOptions(set(ACTIVATIONS)), HasMethods(["forward", "backward"])],
        "solver": [StrOptions({*STOCHASTIC, "lbfgs"}), HasMethods(["step"])],
        "class_weight": GradientClassifier._parameter_constraints["class_weight"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "clip_norm": [None, Interval(Real, 0, None, closed="neither")],
        "lr_schedule": [None, StrOptions({"cosine", "coslog4", "onecycle"}), callable],
        "init": [StrOptions(set(INITS))],
        "loss_threshold": [None, Real],
        "max_time": [None, Interval(Real, 0, None, closed="left")],
        "n_jobs": [None, Integral],
        "preset": [None],
    }

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        class_weight=None,
        dropout=0.0,
        weight_decay=0.0,
        label_smoothing=0.0,
        clip_norm=None,
        lr_schedule=None,
        init="glorot_uniform",
        loss_threshold=None,
        max_time=None,
        n_jobs=None,
        preset=None,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.class_weight = class_weight
        self.dropout = dropout
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.clip_norm = clip_norm
        self.lr_schedule = lr_schedule
        self.init = init
        self.loss_threshold = loss_threshold
        self.max_time = max_time
        self.n_jobs = n_jobs
        self.preset = preset

    # -- fitting

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, *, X_val=None, y_val=None, sample_weight_val=None):
        """Train the network.

        Parameters
        ----------
        {X}
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Class labels: numbers, strings or booleans; or a matrix of zeros and ones with a column for each
            of the labels that a row may have.
        {sample_weight}
        X_val, y_val : array-like, default=None
            Validation rows, used as the held-out rows of ``early_stopping``.
        sample_weight_val : array-like, default=None
            Weights of the validation rows.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If an argument is not valid, or training diverges; the message says so. A fitted estimator stays
            as it was.

        Warns
        -----
        ConvergenceWarning
            If ``max_iter`` or ``max_time`` ended the training.
        """
        with unchanged_on_error(self):
            return self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val))

    def _fit(self, X, y, sample_weight, validation):
        going_on = self.warm_start and hasattr(self, "coefs_")
        X, y, coded = self._check_data(X, y, sample_weight, reset=not going_on)
        net, kept = self._network(X, coded), self._kept(going_on)
        objective = self._objective(X, coded, net)
        check_finite(self, objective.blocks)
        _warn_of_scales(X)
        rng = self._generator(kept)
        theta = self._start(net, rng, X.dtype, going_on)
        rows, held_out, places = self._split(X, y, coded, validation, rng, kept)
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        context = self._callback_context(X, y, metadata)

        def unpack(theta):
            return self._attributes(theta, net, coded, X.dtype)

        watch = self._watcher(context, X, y, metadata, unpack)
        score = self._scorer(held_out, net, coded)
        result, solver = self._train(objective, theta, (rng, rows, kept), score, watch)
        vars(self).update(unpack(result.theta))
        self._keep_course(result, going_on)
        self._keep_state(result, solver, X.shape[0], places)
        if context is not None:
            context.call_on_fit_task_end(
                estimator=self, X=X, y=y, metadata=metadata, reconstruction_attributes={}
            )
        self._report(result)
        return self

    @available_if(lambda self: self.solver != "lbfgs")
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None, classes=None):
        """Train for one epoch over a batch of rows, going on from the calls before.

        ``class_weight="balanced"`` counts the classes as they come. ``tol`` and ``max_iter`` play no role, but
        for the schedule of the rate. After a ``fit`` the stream starts at its weights, with the state of its
        optimizer.

        Parameters
        ----------
        {X}
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Class labels.
        {sample_weight}
        classes : array-like of shape (n_classes,), default=None
            All classes that will ever come; needed in the first call.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If an argument is not valid, a label is not among the classes, or X has another number of features
            than before; the message says so. A fitted estimator stays as it was.
        """
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        with unchanged_on_error(self):
            going_on = hasattr(self, "coefs_")
            X, coded, seen = self._check_stream(X, y, classes, sample_weight)
            net, kept = self._network(X, coded), self._kept(going_on)
            objective = self._objective(X, coded, net)
            check_finite(self, objective.blocks)
            rng = check_random_state(self.random_state)
            theta = self._start(net, rng, X.dtype, going_on)
            if coded.s is None or coded.s.any():
                rows = _rows(coded)
                watch = self._watcher(None, X, y, None, None)
                result, solver = self._train(objective, theta, (rng, rows, kept), None, watch, n_epochs=1)
                vars(self).update(self._attributes(result.theta, net, coded, X.dtype), _seen=seen)
                self._keep_course(result, going_on)
                self._keep_state(result, solver, None, None)
        return self

    # -- data

    def _check_data(self, X, y, sample_weight, reset):
        """X, y and what training needs of it."""
        if self._several_labels(y):
            X, y, Y, s = self._check_indicators(X, y, sample_weight, reset)
            return X, y, Coded(np.arange(Y.shape[1]), Y, s, None)
        X, y, labels = self._check_labelled(X, y, sample_weight)
        return X, y, Coded(labels.classes, _column(labels.codes), labels.s, labels.class_weight)

    def _check_stream(self, X, y, classes, sample_weight):
        """X and the :class:`Coded` targets of a batch, and the weight of the rows so far."""
        if self._several_labels(y):
            reset = not hasattr(self, "n_features_in_")
            X, _, Y, s = self._check_indicators(X, y, sample_weight, reset)
            return X, Coded(np.arange(Y.shape[1]), Y, s, None), None
        X, labels, seen = self._check_batch(X, y, classes, sample_weight)
        s = None if (labels.s == 1.0).all() else labels.s
        return X, Coded(labels.classes, _column(labels.codes), s, labels.class_weight), seen

    @staticmethod
    def _several_labels(y):
        """Whether y is a matrix of more than one column."""
        shape = y.shape if hasattr(y, "shape") else np.shape(y[:1]) if hasattr(y, "__getitem__") else ()
        return len(shape) == 2 and shape[1] > 1

    def _check_indicators(self, X, y, sample_weight, reset):
        """X, y as it is, its 0/1 matrix and the weights."""
        if self.class_weight is not None:
            raise ValueError("class_weight is for one label of a row; y has several: use sample_weight")
        if not type_of_target(y, input_name="y").startswith("multilabel"):
            raise ValueError(
                "y has several columns: it must hold zeros and ones only, for labels that a row has or has not"
            )
        X = check_X(self, X, reset)
        Y = check_array(y.toarray() if issparse(y) else y, dtype=None, input_name="y")
        check_consistent_length(X, Y)
        if hasattr(self, "coefs_") and not reset and Y.shape[1] != len(self.classes_):
            raise ValueError(f"y has {Y.shape[1]} columns, but there were {len(self.classes_)} before")
        return X, y, (Y != 0).astype(np.int32), check_weights(sample_weight, X)

    def _check_classes(self, classes):
        if self.warm_start and hasattr(self, "classes_") and not np.array_equal(self.classes_, classes):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                f"Previously got {self.classes_}, `y` has {classes}"
            )
        super()._check_classes(classes)

    def _split(self, X, y, coded, given, rng, kept):
        """Training rows, the validation triple (X, y, s) or ``None``, and the numbers of held-out rows."""
        rows = _rows(coded)
        if any(part is not None for part in given):
            return rows, self._validation_split(X, y, None, given)[1], None
        if not self.early_stopping or self.solver == "lbfgs":
            return rows, None, None
        if kept and kept["places"] is not None and kept["n_rows"] == X.shape[0]:
            places = kept["places"]
            rows = rows[~np.isin(rows, places)]
        else:
            rows, places = train_test_split(
                rows,
                random_state=rng,
                test_size=self.validation_fraction,
                stratify=coded.Y[rows].astype(bool) if coded.n_outputs == 1 else None,
            )
        if len(places) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        places = np.sort(places)
        held_out = X[places], _take(y, places), None if coded.s is None else coded.s[places]
        return rows, held_out, places

    # -- the network

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
        from .network import raw_outputs, unpack

        if held_out is None:
            return None
        X, y, s = held_out
        y = check_array(y, dtype=None) if self._several_labels(y) else np.asarray(as_labels(y))

        def score(theta):
            z = raw_outputs(X, *unpack(net, theta), net.activation)
            if y.ndim == 2:
                return float(np.average(((z > 0) == y).all(axis=1), weights=s))
            return float(np.average(coded.classes[decide(z)] == y, weights=s))

        return score

    # -- training

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
                f"batch_size={self.batch_size} is larger than the number of rows, {n_rows}, and is clipped to it",
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
        if new_rows or rows.size != state.rows.size or not np.array_equal(np.sort(state.rows), np.sort(rows)):
            state.rows = rows
        if solver.recipe.mode == "constant":
            state.rate = solver.recipe.rate
        return state

    def _keep_state(self, result, solver, n_rows, places):
        """Plain arrays, so that a pickled model does not need the solvers to be loaded."""
        self.solver_ = solver
        self._resume = None
        if solver != "lbfgs":
            self._resume = {
                "solver": solver,
                "start": result.theta,
                "state": vars(result.state).copy(),
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
                f"{type(self).__name__} had not converged when training ended after {result.n_iter} iterations "
                f"because {MESSAGES[result.status]}: {advice[result.status]}.",
                ConvergenceWarning,
                stacklevel=4,
            )

    # -- prediction

    def _raw_predictions(self, X):
        """Raw outputs (n_samples, n_outputs), block by block where X is not in memory."""
        from .activations import ACTIVATIONS as CLASSES
        from .network import raw_outputs

        check_is_fitted(self)
        X = check_X(self, X, reset=False)
        activation = CLASSES[self.activation]() if isinstance(self.activation, str) else self.activation
        network = self.coefs_, self.intercepts_, activation
        if is_blockwise(X):
            from .blocks import iter_slices

            return np.concatenate([raw_outputs(part, *network) for part in iter_slices(X)])
        z = raw_outputs(X, *network)
        if not np.isfinite(z).all():
            assert_all_finite(
                X.data if issparse(X) else X, input_name="X", estimator_name=type(self).__name__
            )
        return z

    def _has_several_labels(self):
        return self.out_activation_ == "logistic" and self.n_outputs_ > 1

    def _labels_of(self, z):
        return (z > 0).astype(int) if self._has_several_labels() else self.classes_[decide(z)]

    def decision_function(self, X):
        """Raw outputs of the last layer: the logits.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) for two classes, else (n_samples, n_classes)
        """
        z = self._raw_predictions(X)
        return z[:, 0] if z.shape[1] == 1 else z

    def predict_proba(self, X):
        """Probability of each class.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Columns in the order of ``classes_``; rows sum to 1 unless a row may have several labels.
        """
        z = self._raw_predictions(X)
        if not self._has_several_labels():
            return _above_zero(probabilities(z), log_probabilities, z)
        return _below_one(_above_zero(expit(z), log_expit, z))

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
        if not self._has_several_labels():
            return log_probabilities(z)
        return np.where(z > 0, np.log(_below_one(expit(z))), log_expit(z))

    def predict(self, X):
        """Predict the class of each row.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            With the dtype of ``classes_``; a matrix of zeros and ones if a row may have several labels.
        """
        return self._labels_of(self._raw_predictions(X))

    def score(self, X, y, sample_weight=None):
        """Accuracy of the predictions; of several labels of a row all must be right.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            True labels, held in any way that ``fit`` takes.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        y = y if self._several_labels(y) else as_labels(y)
        return accuracy_score(y, self.predict(X), sample_weight=sample_weight)

    def to_sklearn(self):
        """A fitted :class:`~sklearn.neural_network.MLPClassifier` that predicts the same.

        For exporters such as ONNX converters, which know scikit-learn's classes.

        Raises
        ------
        ValueError
            If scikit-learn has no such activation.
        """
        check_is_fitted(self)
        allowed = MLPClassifier._parameter_constraints["activation"][0].options
        if self.activation not in allowed:
            raise ValueError(
                f"activation={self.activation!r} is not one that scikit-learn has: {sorted(allowed)}"
            )
        twin = MLPClassifier()
        twin.set_params(**{name: value for name, value in self.get_params().items() if hasattr(twin, name)})
        twin._label_binarizer = LabelBinarizer().fit(
            np.eye(len(self.classes_), dtype=int) if self._has_several_labels() else self.classes_
        )
        names = ("coefs_", "intercepts_", "classes_", "n_features_in_", "feature_names_in_", "n_iter_", "t_")
        names += ("loss_", "n_layers_", "n_outputs_", "out_activation_")
        return copy_fitted(self, twin, names)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _above_zero(p, logarithm, z):
    """Probabilities too small for floating-point numbers are put just below these, in their order."""
    tiny = np.finfo(p.dtype).tiny
    low = p < tiny
    if low.any():
        p[low] = tiny * np.log(tiny) / logarithm(z)[low]
    return p


def _below_one(p):
    """A logistic function does not reach 1, whatever rounding says."""
    number = p.dtype.type
    return np.minimum(p, np.nextafter(number(1), number(0)), out=p)


def _column(codes):
    return codes.astype(np.int32)[:, None]


def _rows(coded):
    """Numbers of the rows that count."""
    return np.arange(len(coded.Y)) if coded.s is None else np.flatnonzero(coded.s)


def _take(y, places):
    """Rows of labels, whatever holds them."""
    return y.iloc[places] if hasattr(y, "iloc") else y[places] if hasattr(y, "shape") else np.asarray(y)[places]


def _warn_of_scales(X):
    """Gradient steps are as long in every column: where a few are far larger, the others are not learnt."""
    if issparse(X) or is_blockwise(X):
        return
    sample = np.abs(X[:: -(-X.shape[0] // LOOKED_AT)].astype(np.float64))
    sizes = sample.mean(axis=0)
    sizes = sizes[sizes > 0]
    if sizes.size and sizes.max() > SPREAD * np.median(sizes):
        warnings.warn(
            f"The columns of X differ in scale: the largest is {sizes.max() / np.median(sizes):.3g} times the "
            "median. A network learns badly from such data: scale the features (for example with "
            "StandardScaler).",
            UserWarning,
            stacklevel=4,
        )


for _method in (GDMLPClassifier.fit, GDMLPClassifier.partial_fit):
    fill(_method, X=X_TEXT, sample_weight=SAMPLE_WEIGHT)
