"""What the classifiers share: classes and their weights, labels as codes, streams, accuracy."""

from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import unique_labels

from .base import GradientEstimator, blockwise
from .validation import as_labels, by_block, check_weights, check_Xy, encode, is_column, is_dask


class Labels(NamedTuple):
    """Checked labels: the classes (sorted), and of each row the index of its class and its weight."""

    classes: np.ndarray
    codes: np.ndarray
    s: np.ndarray | None  # sample weights times class weights; None where all are 1
    class_weight: np.ndarray  # of each class


class GradientClassifier(ClassifierMixin, GradientEstimator):
    """Base of the classifiers, which have the parameter ``class_weight``."""

    _parameter_constraints = {
        **GradientEstimator._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def _check_labelled(self, X, y, sample_weight):
        """X, y and the :class:`Labels` of a fit."""
        X, y = self._check_rows(X, as_labels(y))
        s = check_weights(sample_weight, X)
        classes, codes = encode(y)
        self._check_classes(classes)
        if self.class_weight is None:
            return X, y, Labels(classes, codes, s, np.ones(len(classes)))
        if is_column(y):
            counts = sum(by_block(partial(_counts, len(classes)), codes, s))
            of_class = self._stream_weights(classes, counts)
            s = codes.map(partial(_weights, of_class), *([] if s is None else [s]), dtype=np.float64)
            return X, y, Labels(classes, codes, s, of_class)
        of_class = compute_class_weight(self.class_weight, classes=classes, y=y, sample_weight=s)
        return X, y, Labels(classes, codes, _weights(of_class, codes, s), of_class)

    def _check_rows(self, X, y):
        return check_Xy(self, X, y)

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

    def _check_batch(self, X, y, classes, sample_weight):
        """X and the :class:`Labels` of a batch of a stream, and the weight of the rows seen so far.

        That is the sum of the sample weights in each class, and last the sum of all weights, those of the
        classes included; the caller keeps it as ``_seen`` once the batch has been learnt.
        """
        X, y = check_Xy(self, X, as_labels(y), reset=not hasattr(self, "n_features_in_"))
        s = check_weights(sample_weight, X)
        classes = self._stream_classes(classes)
        codes = np.searchsorted(classes, y).clip(max=len(classes) - 1)
        unknown = np.unique(y[classes[codes] != y])
        if unknown.size:
            raise ValueError(
                f"y contains labels that are not among the classes {list(classes)}: {list(unknown)}"
            )
        seen = getattr(self, "_seen", np.zeros(len(classes) + 1))
        seen = seen + np.append(np.bincount(codes, s, len(classes)), 0.0)
        of_class = self._stream_weights(classes, seen[:-1])
        s = of_class[codes] * (1.0 if s is None else s)
        seen[-1] += s.sum()
        return X, Labels(classes, codes, s, of_class), seen

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

    @blockwise
    def decision_function(self, X):
        """Raw predictions: for the second of two classes, else for each class.

        The class with the largest is predicted, the second of two where it is positive. They are log-odds and
        logits, but those of a :class:`~skbigmodel.GDSVC` are signed distances from the boundary in units of
        the margin.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) for two classes, else (n_samples, n_classes)
            Where ``GDSVC`` fitted pairs of three or more classes, it is the votes for each class, to which
            its raw predictions add less than a half, or with ``decision_function_shape="ovo"`` the raw
            predictions, of shape (n_samples, n_pairs).
        """
        return self._scores(self._raw_predictions(X))

    def _scores(self, z):
        """What raw predictions give as a decision function."""
        return z[:, 0] if z.shape[1] == 1 else z

    @blockwise
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
        self._check_prediction()
        return self._labels_of(self._raw_predictions(X))

    def _check_prediction(self):
        """Refuse what cannot be predicted whatever the rows are."""

    def _labels_of(self, z):
        """The labels that raw predictions stand for."""
        return self.classes_[decide(z)]

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
        if is_dask(X):
            right, weight = np.sum(self._over_chunks(self._count_right, X, y, sample_weight), axis=0)
            return float(right / weight)
        return accuracy_score(as_labels(y), self.predict(X), sample_weight=sample_weight)

    def _count_right(self, X, y, s=None):
        s = np.ones(X.shape[0]) if s is None else np.asarray(s, np.float64)
        return float(s[self.predict(X) == np.asarray(as_labels(y))].sum()), float(s.sum())


def _counts(n_classes, codes, s):
    return np.bincount(codes, s, n_classes)


def _weights(of_class, codes, s=None):
    return of_class[codes] if s is None else s * of_class[codes]


# Raw predictions z have shape (n_samples, 1) for two classes, else (n_samples, n_classes).


def decide(z):
    """Index of the class with the largest raw prediction."""
    return (z[:, 0] > 0).astype(np.intp) if z.shape[1] == 1 else z.argmax(axis=1)


def probabilities(z):
    """Logistic or softmax function of raw predictions: (n_samples, n_classes)."""
    return np.hstack([expit(-z), expit(z)]) if z.shape[1] == 1 else softmax(z, axis=1)


def log_probabilities(z):
    """Logarithm of :func:`probabilities`, without rounding to 0 on the way."""
    return np.hstack([log_expit(-z), log_expit(z)]) if z.shape[1] == 1 else log_softmax(z, axis=1)


def validation_accuracy(held_out, predict):
    """Accuracy of an iterate on the held-out rows (X, y, s), as a function of theta.

    ``predict(theta, X)`` gives the labels; the result is ``None`` where no rows are held out.
    """
    from .slices import in_slices

    if held_out is None:
        return None
    X, y, s = held_out
    y = np.asarray(as_labels(y))

    def score(theta):
        return accuracy_score(y, in_slices(lambda rows: predict(theta, rows), X), sample_weight=s)

    return score
