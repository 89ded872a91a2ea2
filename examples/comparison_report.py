"""What compare_with_sklearn.py measures with, and how it shows the result."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from threadpoolctl import threadpool_limits

TIGHT = {"tol": 1e-10, "max_iter": 100_000}  # for scikit-learn's solvers, where coefficients are compared
OURS, TWIN = "#d1495b", "#3d6b9e"


class Comparison(NamedTuple):
    """Two estimators that minimise the same objective, and the grid on which both are tuned."""

    load: Callable
    ours: Any
    twin: Any
    grid: dict
    to_twin: Callable = lambda name, value, n_samples: value  # where the twin counts a parameter differently


class Row(NamedTuple):
    """What came of one comparison; pairs are (ours, twin)."""

    data: str
    names: tuple
    best: dict
    scores: tuple
    seconds: tuple
    coefficients: tuple

    @property
    def difference(self):
        """Largest difference of two coefficients, relative to the largest coefficient."""
        ours, twin = self.coefficients
        return np.abs(ours - twin).max() / np.abs(twin).max()


def fit_times(models, X, y, repeats=7):
    """Median seconds of one fit of each model on one thread; they take turns, after one fit that warms up."""
    seconds = [[] for _ in models]
    with threadpool_limits(1):  # on data this small a second thread costs more than it brings
        for _ in range(repeats + 1):
            for model, times in zip(models, seconds):
                model = clone(model)
                start = time.perf_counter()
                model.fit(X, y)
                times.append(time.perf_counter() - start)
    return tuple(statistics.median(times[1:]) for times in seconds)


def coefficients(model, X, y):
    """All fitted parameters as one vector; scikit-learn runs to a tight tolerance, ours to its default."""
    model = clone(model)
    converges = not hasattr(model, "hidden_layer_sizes")  # a network is compared after the same epochs
    if converges and type(model).__module__.startswith("sklearn"):
        model.set_params(**{name: value for name, value in TIGHT.items() if name in model.get_params()})
    model.fit(X, y)
    arrays = []
    for name in ("coef_", "intercept_", "coefs_", "intercepts_"):  # networks have lists of arrays
        part = getattr(model, name, [])
        arrays += part if isinstance(part, list) else [part]
    return np.concatenate([np.ravel(array) for array in arrays])


def print_table(rows):
    """One line per comparison."""
    print("Score: accuracy, or R2 for diabetes. Time: ms of one fit. Difference: coefficients, relative.\n")
    head = ("data", "skbigmodel", "scikit-learn", "best parameters", "score", "", "time", "", "difference")
    lines = [head, ("", "", "", "", "ours", "twin", "ours", "twin", "")]
    for row in rows:
        best = ", ".join(f"{name}={value}" for name, value in row.best.items())
        times = [f"{1e3 * seconds:.2f}" for seconds in row.seconds]
        scores = [f"{score:.3f}" for score in row.scores]
        lines.append((row.data, *row.names, best, *scores, *times, f"{row.difference:.0e}"))
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        text, numbers = zip(line[:4], widths[:4]), zip(line[4:], widths[4:])
        print("  ".join([cell.ljust(n) for cell, n in text] + [cell.rjust(n) for cell, n in numbers]))


def save_picture(rows, path):
    """Scores, fit times and differences, one line per comparison."""
    try:
        import matplotlib
    except ImportError:
        print("\nNo picture: matplotlib is not installed.")
        return
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    size = (12, 0.6 * len(rows) + 1.8)
    figure, panels = plt.subplots(1, 3, figsize=size, sharey=True, layout="constrained")
    scores, times, differences = panels
    height = np.arange(len(rows))[::-1]
    _draw_pairs(scores, height, [row.scores for row in rows])
    _draw_pairs(times, height, [np.multiply(row.seconds, 1e3) for row in rows])
    differences.scatter([max(row.difference, 1e-16) for row in rows], height, s=45, color=OURS, zorder=3)

    scores.set(title="Score on held-out rows", xlabel="accuracy ($R^2$ for diabetes)", xlim=(0, 1.03))
    times.set(title="Time of one fit", xlabel="milliseconds", xscale="log")
    times.xaxis.set_major_formatter("{x:g}")
    differences.set(title="Difference of coefficients", xlabel="relative to the largest")
    differences.set(xscale="log", xlim=(1e-16, 1))
    scores.set_yticks(height, [f"{row.data}\n{row.names[1]}" for row in rows])
    for panel in panels:
        panel.set_title(panel.get_title(), loc="left", fontweight="bold", fontsize="medium")
        panel.set_title("")
        panel.grid(color="0.92")
        panel.set_axisbelow(True)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
    figure.legend(*scores.get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False)
    figure.savefig(path, dpi=150)
    print(f"\nPicture: {path}")


def _draw_pairs(axes, height, pairs):
    """A dot for ours, a ring for the twin, a line between them."""
    ours, twin = np.transpose(pairs)
    axes.hlines(height, ours, twin, color="0.8", linewidth=2, zorder=1)
    axes.scatter(ours, height, s=45, color=OURS, label="skbigmodel", zorder=3)
    ring = {"facecolors": "none", "edgecolors": TWIN, "linewidths": 2}
    axes.scatter(twin, height, s=110, label="scikit-learn", zorder=2, **ring)
