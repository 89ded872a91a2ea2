"""The data of networks: rows with one label or several, their weights, and the rows held out."""

import warnings
from typing import NamedTuple

import numpy as np
from scipy.sparse import issparse
from sklearn.model_selection import train_test_split
from sklearn.model_selection._split import _validate_shuffle_split
from sklearn.utils.extmath import _approximate_mode
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_array, check_consistent_length

from .classification import GradientClassifier
from .network_presets import FEWEST
from .validation import check_rows_at_hand, check_weights, check_X, is_blockwise, is_dask

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


class NetworkData(GradientClassifier):
    """What an estimator does with the data before a network is trained on them."""

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
        if is_dask(X) or is_dask(y):
            raise TypeError(
                "several labels of a row are taken from Dask collections by partial_fit only: call it for "
                "each epoch"
            )
        if self.class_weight is not None:
            raise ValueError("class_weight is for one label of a row; y has several: use sample_weight")
        if not type_of_target(y, input_name="y").startswith("multilabel"):
            raise ValueError(
                "y has several columns: it must then hold zeros and ones only, for labels that a row has"
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

    def _split(self, X, y, coded, given, rng, kept, blocks):
        """Training rows, the validation triple (X, y, s) or ``None``, and the numbers of held-out rows."""
        rows = counting_rows(coded, blocks)
        if any(part is not None for part in given):
            return rows, self._validation_split(X, y, None, given)[1], None
        if not self._holds_out(rows):
            return rows, None, None
        check_rows_at_hand(X)
        from .selection import some_rows

        if kept and kept["places"] is not None and kept["n_rows"] == X.shape[0]:
            places = kept["places"]
            rows = rows[~np.isin(rows, places)]
        else:
            rows, places = _cut(rows, coded, self.validation_fraction, rng, self.early_stopping)
        if len(places) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        places = np.sort(places)
        held_out = some_rows(X, places), _take(y, places), None if coded.s is None else coded.s[places]
        return rows, held_out, places

    def _holds_out(self, rows):
        """Whether some of the rows are to be held out; a preset does not insist on it where they are few."""
        settings = self._settings
        wanted = self.early_stopping or settings.early_stopping and len(rows) >= FEWEST
        return wanted and settings.solver != "lbfgs"


def _column(codes):
    return codes.astype(np.int32).reshape(len(codes), 1)


def counting_rows(coded, blocks):
    """Numbers of the rows that count; where parameters visit the blocks, how many each of them has."""
    if blocks.scattered:
        return np.array(blocks.map(_n_counting, rows=False))
    return np.arange(len(coded.Y)) if coded.s is None else np.flatnonzero(coded.s)


def _n_counting(block):
    return np.count_nonzero(np.broadcast_to(block.s, len(block.y)))


def _cut(rows, coded, fraction, rng, insist):
    """``train_test_split`` of row numbers, stratified for two classes; a preset does not insist on that."""
    if coded.n_outputs > 1 or not insist and np.bincount(coded.Y[rows, 0]).min() < 2:
        return train_test_split(rows, random_state=rng, test_size=fraction)
    codes = coded.Y[rows, 0]
    few = np.bincount(codes, minlength=len(coded.classes)) == 1
    if few.any():
        raise ValueError(
            "The least populated classes in y have only 1 member, too few to hold rows of each class out: "
            "pass X_val and y_val. Classes with too few members are: "
            f"{[str(label) for label in coded.classes[few]]}"
        )
    return [rows[places] for places in _stratified(codes, fraction, rng)]


def _stratified(codes, fraction, rng):
    """Places of the training and of the test rows as scikit-learn draws them, in arrays alone.

    Its own function makes Python numbers, 70 bytes for each row, where a row of a file may have less.
    """
    sizes = _validate_shuffle_split(len(codes), fraction, None)
    counts = np.bincount(codes)
    if min(sizes) < len(counts):
        raise ValueError(
            f"The validation set is too small: {sizes[1]} of {len(codes)} rows for {len(counts)} classes. "
            "Increase 'validation_fraction' or the size of your dataset."
        )
    training = _approximate_mode(counts, sizes[0], rng)
    testing = _approximate_mode(counts - training, sizes[1], rng)
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(counts)[:-1])
    drawn = [each[rng.permutation(each.size)] for each in members]
    parts = [each[:n] for each, n in zip(drawn, training, strict=True)]
    others = [each[n : n + m] for each, n, m in zip(drawn, training, testing, strict=True)]
    return [rng.permutation(np.concatenate(part)) for part in (parts, others)]


def _take(y, places):
    """Rows of labels, whatever holds them."""
    return (
        y.iloc[places] if hasattr(y, "iloc") else y[places] if hasattr(y, "shape") else np.asarray(y)[places]
    )


def warn_of_scales(X):
    """Gradient steps are as long in every column: where a few are far larger, the others are not learnt."""
    if not isinstance(X, np.ndarray) or is_blockwise(X):
        return
    sample = np.abs(X[:: -(-X.shape[0] // LOOKED_AT)].astype(np.float64))
    sizes = sample.mean(axis=0)
    sizes = sizes[sizes > 0]
    if sizes.size and sizes.max() > SPREAD * np.median(sizes):
        warnings.warn(
            f"The columns of X differ in scale: the largest is {sizes.max() / np.median(sizes):.3g} times "
            "the median. A network learns badly from such data: scale the features (for example with "
            "StandardScaler).",
            UserWarning,
            stacklevel=4,
        )
