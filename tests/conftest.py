"""Shared by the suite: a table of estimators, solvers, layouts, optional packages, a fresh process."""

import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy import sparse

import skbigmodel
from skbigmodel import GDLinearRegressor, GDLogisticClassifier, GDSVC

SOLVERS = ["auto", "gd", "nesterov", "lbfgs", "newton-cg", "saga", "cd", "sgd", "adam"]
LAYOUTS = {"dense": np.ascontiguousarray, "csr": sparse.csr_array, "csc": sparse.csc_matrix}


class Case(NamedTuple):
    """An estimator and what a test must know to treat it like all the others."""

    make: Callable
    kind: str  # "regressor" or "classifier"
    exact: dict  # parameters with which two fits of one problem agree far below 1e-6
    free: dict  # parameters for no penalty, or next to none
    joint: bool = True  # whether three classes make one problem

    def __call__(self, **params):
        """An estimator that finds the optimum of a strictly convex problem to many digits."""
        return self.make(**{**self.exact, **params})

    def data(self, n=60, d=4, n_classes=2, seed=0):
        """X and a noisy linear target (for a classifier: its quantiles), so that no classes are separable."""
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((n, d))
        score = X @ np.linspace(1.5, -1.0, d) + rng.standard_normal(n)
        if self.kind == "regressor":
            return X, score
        return X, np.digitize(score, np.quantile(score, np.arange(1, n_classes) / n_classes))

    def optimum(self, solver, **params):
        """As a call, for comparison with what that solver finds: the same objective."""
        return self(solver="auto" if solver == "auto" else "newton-cg", **params)

    def raw(self, model, X):
        """The raw prediction f: what a classifier calls its decision function."""
        return model.predict(X) if self.kind == "regressor" else model.decision_function(X)

    def classes(self, y):
        """What the first call of partial_fit needs besides X and y."""
        return {"classes": np.unique(y)} if self.kind == "classifier" else {}

    def wrong(self, y):
        """Targets that contradict y."""
        return -1e3 * y if self.kind == "regressor" else y.max() - y


def _svc(**params):
    """With the default loss, unless a solver is named that takes smooth losses only."""
    solver = params.get("solver")
    smooth = isinstance(solver, str) and solver not in ("auto", "interior-point", "dual")
    return GDSVC(**{"loss": "squared_hinge" if smooth else "hinge", **params})


_svc.__signature__ = inspect.signature(GDSVC)


_EXACT = {"tol": 1e-10, "max_iter": 10_000}
CASES = {
    "R": Case(GDLinearRegressor, "regressor", {"alpha": 0.1, **_EXACT}, {"alpha": 0.0}),
    "L": Case(GDLogisticClassifier, "classifier", _EXACT, {"C": np.inf}),
    "V": Case(_svc, "classifier", _EXACT, {"C": 1e12}, joint=False),
}


@pytest.fixture(params=CASES)
def case(request):
    """Every estimator in turn."""
    return CASES[request.param]


@pytest.fixture(params=[name for name in CASES if CASES[name].kind == "classifier"])
def classifier(request):
    """Every classifier in turn."""
    return CASES[request.param]


@pytest.fixture(params=SOLVERS)
def solver(request):
    """Every solver name of the linear models in turn."""
    return request.param


@pytest.fixture(params=LAYOUTS)
def layout(request):
    """A function from a dense array to each layout in turn."""
    return LAYOUTS[request.param]


def _optional(name):
    """A fixture that is a package which a user of plain arrays need not have."""
    return pytest.fixture(lambda: pytest.importorskip(name), name=name)


pandas, polars, pyarrow = map(_optional, ("pandas", "polars", "pyarrow"))


@pytest.fixture(scope="session")
def run_python(tmp_path_factory):
    """Run source text in a fresh interpreter (warnings as by default) and return its finished process."""

    def run(code, *args, **env):
        source = str(Path(skbigmodel.__file__).parents[1])  # the child may lack an installed package
        path = os.pathsep.join(filter(None, [source, os.getenv("PYTHONPATH")]))
        places = {**os.environ, "PYTHONPATH": path, **env}
        places = {name: value for name, value in places.items() if value is not None}
        command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
        folder = tmp_path_factory.mktemp("child")
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=places, timeout=300)
        assert done.returncode == 0, done.stderr
        return done

    return run
