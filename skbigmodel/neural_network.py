"""Multi-layer perceptrons."""

from numbers import Integral, Real

import numpy as np
from scipy.sparse import issparse
from scipy.special import expit, log_expit
from sklearn.base import _fit_context
from sklearn.callback import with_callbacks
from sklearn.metrics import accuracy_score
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import assert_all_finite, check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ._docs import SAMPLE_WEIGHT, fill
from ._docs import X as X_TEXT
from .base import blockwise, copy_fitted, streamed
from .classification import GradientClassifier, decide, log_probabilities, probabilities
from .network_data import counting_rows, warn_of_scales
from .network_inputs import code_categories
from .network_presets import BATCH
from .network_training import NetworkTraining
from .validation import (
    as_labels,
    check_finite,
    check_X,
    is_blockwise,
    is_dask,
    unchanged_on_error,
)

ACTIVATIONS = (
    *("identity", "logistic", "tanh", "relu"),
    *("leaky_relu", "elu", "selu", "gelu", "silu", "mish"),
)
INITS = tuple(f"{scheme}_{law}" for scheme in ("glorot", "he", "lecun") for law in ("uniform", "normal"))
STOCHASTIC = ("sgd", "adam")


class GDMLPClassifier(NetworkTraining):
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
        ``"adam"`` and ``"sgd"`` step over batches of rows, ``"lbfgs"`` uses all rows at a time and suits
        small data. An object of :mod:`skbigmodel.optimizers`, or one of your own, steps over batches.
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
        Hold out ``validation_fraction`` of the rows, judge progress by their accuracy, and keep the weights
        of the best epoch. Not for ``"lbfgs"``.
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
        ``"he_uniform"``, ``"he_normal"``, ``"lecun_uniform"`` or ``"lecun_normal"``. Biases start at 0, but
        for the first of these, which draws them, too.
    loss_threshold : float, default=None
        Stop as soon as an entry of ``loss_curve_`` is at most this.
    max_time : float, default=None
        Stop after so many seconds, at the end of an epoch.
    n_jobs : int, default=None
        Threads of one fit, which large networks use. ``None`` means the processors this process may use,
        capped by what joblib or the environment grants a worker. Results do not depend on it, bit for bit.
    preset : {"tuned"}, default=None
        ``"tuned"`` is a recipe for tables that needs no search and no scaled columns, after RealMLP [5]_:
        numbers are scaled robustly and softly clipped, and columns of text or categories in a data frame
        become a column for each value; three layers of 256 ``"selu"`` units in the neural tangent
        parametrisation and a learnt scale for each input are trained for 256 epochs by Adam with
        ``beta_2=0.95``, ``learning_rate_init=0.02``, ``weight_decay=0.03``, ``lr_schedule="coslog4"``,
        ``label_smoothing=0.1`` and ``dropout=0.15``, without a penalty, in batches of 256 and in ``float32``.
        The model is the running mean of the parameters over a twelfth of the epochs. Where there are 50 rows
        or more, ``validation_fraction`` of them are held out, and the last epoch whose mean has the best
        Brier score on these is kept. Parameters that differ from their defaults win over the preset; to set
        one to its default, give it another type (``dropout=0``, ``hidden_layer_sizes=[100]``,
        ``activation=Relu()``).

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted.
    class_weight_ : ndarray of shape (n_classes,) or None
        Weight of each class; None for several labels of a row.
    coefs_ : list of ndarray of shape (n_units_before, n_units)
        Weights of each layer; float32 if X is, or with a preset. The first layer's are for the columns that
        ``encoding_`` makes.
    encoding_ : object or None
        What a preset makes of the columns: ``categories`` of each, or None for numbers, of which ``center``
        is subtracted before they are multiplied by ``factor``.
    intercepts_ : list of ndarray of shape (n_units,)
        Biases of each layer.
    loss_ : float
        Last entry of ``loss_curve_``.
    best_loss_ : float or None
        Smallest training loss; None where validation rows judge.
    loss_curve_ : list of float
        Mean loss of each epoch, penalty included, as the batches had it before their steps.
    validation_scores_ : list of float or None
        Accuracy of the validation rows after each epoch, where there are any; with a preset 1 - half their
        Brier score, which is the accuracy of a model that is always certain.
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
    .. [5] Holzmüller, D., Grinsztajn, L. and Steinwart, I. (2024). "Better by default: strong pre-tuned MLPs
       and boosted trees on tabular data". NeurIPS.

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
        "preset": [None, StrOptions(set(BATCH) - {None})],
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
        going_on, given = self.warm_start and hasattr(self, "coefs_"), X
        X, categories = self._code(X, sample_weight, going_on)
        X, y, coded = self._check_data(X, y, sample_weight, reset=not going_on)
        net, kept = self._network(X, coded, categories), self._kept(going_on)
        objective = self._objective(X, coded, net)
        check_finite(self, objective.blocks)
        if self.preset is None:
            given = X
            warn_of_scales(X)
        rng, dtype = self._generator(kept), self._dtype(X)
        theta = self._start(net, rng, dtype, going_on)
        validation = code_categories(validation[0], categories), *validation[1:]
        rows, held_out, places = self._split(X, y, coded, validation, rng, kept, objective.blocks)
        encoding = self._encode(X, categories, rows, coded.s, going_on)
        if encoding is not None:
            objective.blocks = objective.blocks.encoded(encoding.encoder())
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        context = self._callback_context(given, y, metadata)

        def unpack(theta):
            return self._attributes(theta, net, coded, dtype, encoding)

        watch = self._watcher(context, given, y, metadata, unpack)
        score = self._scorer(held_out, net, coded, encoding)
        result, solver = self._train(objective, theta, (rng, rows, kept), score, watch)
        vars(self).update(unpack(result.theta))
        self._keep_course(result, going_on)
        self._keep_state(result, solver, X.shape[0], places)
        self._end_of_tasks(context, given, y, metadata)
        self._report(result)
        return self

    @available_if(lambda self: self.solver != "lbfgs")
    @streamed
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None, classes=None):
        """Train for one epoch over a batch of rows, going on from the calls before.

        ``class_weight="balanced"`` counts the classes as they come. ``tol`` and ``max_iter`` play no role,
        but for the schedule of the rate. After a ``fit`` the stream starts at its weights, with the state of
        its optimizer. With a preset the first batch tells the scales and the categories of the columns,
        unless a ``fit`` has; the rate is constant unless ``lr_schedule`` is set, and the model is the running
        mean of the parameters over so many batches as a twelfth of ``max_iter``.

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
            X, categories = self._code(X, sample_weight, going_on)
            X, coded, seen = self._check_stream(X, y, classes, sample_weight)
            net, kept = self._network(X, coded, categories), self._kept(going_on)
            objective = self._objective(X, coded, net)
            check_finite(self, objective.blocks)
            rng = check_random_state(self.random_state)
            dtype = self._dtype(X)
            theta = self._start(net, rng, dtype, going_on)
            if coded.s is None or coded.s.any():
                rows = counting_rows(coded, objective.blocks)
                encoding = self._encode(X, categories, rows, coded.s, going_on)
                if encoding is not None:
                    objective.blocks = objective.blocks.encoded(encoding.encoder())
                watch = self._watcher(None, X, y, None, None)
                result, solver = self._train(objective, theta, (rng, rows, kept), None, watch, n_epochs=1)
                vars(self).update(self._attributes(result.theta, net, coded, dtype, encoding), _seen=seen)
                self._keep_course(result, going_on)
                self._keep_state(result, solver, None, None)
        return self

    # -- prediction

    def _raw_predictions(self, X):
        """Raw outputs (n_samples, n_outputs), block by block where X is not in memory."""
        from .network import raw_outputs

        check_is_fitted(self)
        encoding = getattr(self, "encoding_", None)
        X = X if encoding is None else code_categories(X, encoding.categories)
        X = check_X(self, X, reset=False)
        network = self.coefs_, self.intercepts_, self._activation()
        network += (None if encoding is None else encoding.encoder(),)
        if is_blockwise(X):
            from .slices import in_slices

            return in_slices(lambda part: raw_outputs(part, *network), X)
        z = raw_outputs(X, *network)
        if encoding is not None or not np.isfinite(z).all():  # clipped inputs make finite outputs of infinity
            assert_all_finite(
                X.data if issparse(X) else X, input_name="X", estimator_name=type(self).__name__
            )
        return z

    def _has_several_labels(self):
        return self.out_activation_ == "logistic" and self.n_outputs_ > 1

    def _labels_of(self, z):
        return (z > 0).astype(int) if self._has_several_labels() else self.classes_[decide(z)]

    @blockwise
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
        z = self._raw_predictions(X)
        if not self._has_several_labels():
            return log_probabilities(z)
        return np.where(z > 0, np.log(_below_one(expit(z))), log_expit(z))

    @blockwise
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
        if is_dask(X):
            return super().score(X, y, sample_weight)
        y = y if self._several_labels(y) else as_labels(y)
        return accuracy_score(y, self.predict(X), sample_weight=sample_weight)

    def to_sklearn(self):
        """A fitted :class:`~sklearn.neural_network.MLPClassifier` that predicts the same.

        For exporters such as ONNX converters, which know scikit-learn's classes.

        Raises
        ------
        ValueError
            If scikit-learn has no such activation, or with a preset.
        """
        check_is_fitted(self)
        if self.preset is not None:
            raise ValueError(
                "a network with a preset encodes its input, which scikit-learn's class does not do"
            )
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


for _method in (GDMLPClassifier.fit, GDMLPClassifier.partial_fit):
    fill(_method, X=X_TEXT, sample_weight=SAMPLE_WEIGHT)
