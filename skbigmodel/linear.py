"""What the models share that predict X @ coef_.T + intercept_."""

import numpy as np
from scipy.sparse import issparse
from sklearn.linear_model._base import SparseCoefMixin
from sklearn.utils import assert_all_finite, check_random_state
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import check_is_fitted

from .base import GradientEstimator
from .validation import check_X, is_blockwise


class LinearEstimator(SparseCoefMixin, GradientEstimator):
    """Base of the linear models, which have the parameter ``fit_intercept``."""

    _parameter_constraints = {**GradientEstimator._parameter_constraints, "fit_intercept": ["boolean"]}

    def _pack(self, shape, coef, intercept):
        """Starting points (n_outputs, n_params) from a coef_ and intercept_, or as ``init`` says."""
        n_outputs, n_features = shape
        thetas = np.zeros((n_outputs, n_features + self.fit_intercept))
        if coef is None and intercept is None and self.init == "random":
            thetas[:] = check_random_state(self.random_state).normal(scale=0.01, size=thetas.shape)
        if coef is not None:
            thetas[:, :n_features] = _shaped(coef, (n_outputs, n_features), "coef_init")
        if intercept is not None and self.fit_intercept:
            thetas[:, -1] = _shaped(intercept, (n_outputs,), "intercept_init")
        return thetas

    def _raw_predictions(self, X):
        """X @ coef_.T + intercept_, block by block where X is not in memory."""
        check_is_fitted(self)
        X = check_X(self, X, reset=False)
        coef = self.coef_.T
        if is_blockwise(X):
            from .slices import in_slices

            return in_slices(lambda part: safe_sparse_dot(part, coef) + self.intercept_, X)
        z = safe_sparse_dot(X, coef, dense_output=True) + self.intercept_
        if not np.isfinite(z).all():
            assert_all_finite(
                X.data if issparse(X) else X, input_name="X", estimator_name=type(self).__name__
            )
        return z


def _shaped(value, shape, name):
    """``value`` as a finite array of that shape; a leading or trailing axis of length 1 may be missing."""
    array = np.asarray(value.toarray() if issparse(value) else value, dtype=np.float64)
    if array.size != np.prod(shape) or not np.isfinite(array).all():
        raise ValueError(f"{name} must hold finite numbers and have shape {shape}, got shape {array.shape}")
    return array.reshape(shape)
