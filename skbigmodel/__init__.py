"""Linear models, support vector machines and neural networks for scikit-learn, trained by jitted gradient methods."""

__version__ = "0.1.0"

from .linear_model import GDLinearRegressor, GDLogisticClassifier

__all__ = ["GDLinearRegressor", "GDLogisticClassifier"]
