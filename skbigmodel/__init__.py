"""Linear models with the scikit-learn interface, trained by jitted gradient kernels."""

import contextlib

from .linear_model import GDLinearRegressor, GDLogisticClassifier

__version__ = "0.1.0"
__all__ = ["GDLinearRegressor", "GDLogisticClassifier"]

# Numba is needed by fits alone. It is loaded here so that the first fit does not wait for it, but where it
# cannot be
# loaded a pickled model still can be, and predicts.
with contextlib.suppress(ImportError):
    from . import _jit  # noqa: F401
