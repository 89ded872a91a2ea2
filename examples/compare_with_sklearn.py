"""Each estimator of skbigmodel beside its scikit-learn twin, on data sets that ship with scikit-learn.

Both stand in a pipeline with a StandardScaler and are tuned by GridSearchCV over the same grid. The result
is a table on the screen and a picture, compare_with_sklearn.png unless --output names another file.
"""

import argparse

from comparison_report import Comparison, Row, coefficients, fit_times, print_table, save_picture
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.linear_model import ElasticNet, LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from skbigmodel import GDLinearRegressor, GDLogisticClassifier, GDMLPClassifier, GDSVC


def total_penalty(name, value, n_samples):
    """Ridge adds its penalty to the sum over the rows, not to their mean."""
    return value * n_samples if name == "alpha" else value


ALPHAS, RATIOS, CS = [0.001, 0.01, 0.1, 1.0], [0.1, 0.5, 0.9], [0.01, 0.1, 1.0, 10.0]
LOGISTIC = LogisticRegression(max_iter=1000)
TRAINING = {"learning_rate_init": 0.01, "tol": 1e-3, "random_state": 0}  # one course for both
COMPARISONS = [
    Comparison(load_diabetes, GDLinearRegressor(), LinearRegression(), {"fit_intercept": [True, False]}),
    Comparison(load_diabetes, GDLinearRegressor(), Ridge(), {"alpha": ALPHAS}, total_penalty),
    Comparison(load_diabetes, GDLinearRegressor(), ElasticNet(), {"alpha": ALPHAS, "l1_ratio": RATIOS}),
    Comparison(load_breast_cancer, GDLogisticClassifier(), LOGISTIC, {"C": CS}),
    Comparison(load_wine, GDLogisticClassifier(), LOGISTIC, {"C": CS}),
    Comparison(load_digits, GDLogisticClassifier(), LOGISTIC, {"C": CS}),
    Comparison(load_breast_cancer, GDSVC(), SVC(kernel="linear"), {"C": CS}),
    Comparison(load_wine, GDSVC(multi_class="ovo"), SVC(kernel="linear"), {"C": CS}),
    Comparison(load_digits, GDMLPClassifier(**TRAINING), MLPClassifier(**TRAINING), {"alpha": CS}),
]


def tune(model, grid, X, y):
    """The pipeline at the best grid point by five-fold cross-validation, fitted to all rows."""
    pipeline = Pipeline([("scale", StandardScaler()), ("model", model)])
    return GridSearchCV(pipeline, {f"model__{k}": values for k, values in grid.items()}, cv=5).fit(X, y)


def compare(comparison):
    """Tune and score both estimators, then fit them side by side at the same parameters."""
    X, y = comparison.load(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    n = len(X_train)
    twin_grid = {k: [comparison.to_twin(k, v, n) for v in values] for k, values in comparison.grid.items()}
    ours = tune(comparison.ours, comparison.grid, X_train, y_train)
    twin = tune(comparison.twin, twin_grid, X_train, y_train)

    best = {name.removeprefix("model__"): value for name, value in ours.best_params_.items()}
    pair = (
        clone(comparison.ours).set_params(**best),
        clone(comparison.twin).set_params(**{k: comparison.to_twin(k, v, n) for k, v in best.items()}),
    )
    Z = StandardScaler().fit_transform(X_train)
    return Row(
        data=comparison.load.__name__.removeprefix("load_"),
        names=tuple(type(model).__name__ for model in pair),
        best=best,
        scores=(ours.score(X_test, y_test), twin.score(X_test, y_test)),
        seconds=fit_times(pair, Z, y_train),
        coefficients=tuple(coefficients(model, Z, y_train) for model in pair),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", default="compare_with_sklearn.png", help="where the picture goes")
    output = parser.parse_args().output
    rows = [compare(comparison) for comparison in COMPARISONS]
    print_table(rows)
    save_picture(rows, output)


if __name__ == "__main__":
    main()
