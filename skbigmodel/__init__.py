"""Linear and support vector models and networks with scikit-learn's interface, trained by jitted kernels."""

from . import _jit  # noqa: F401  (Numba is loaded here, so that the first fit does not wait for it)
from .linear_regression import GDLinearRegressor
from .logistic_regression import GDLogisticClassifier
from .neural_network import GDMLPClassifier
from .svm import GDSVC

__version__ = "0.1.0"
__all__ = ["GDLinearRegressor", "GDLogisticClassifier", "GDMLPClassifier", "GDSVC"]
