"""A guess of the solution of a ridge problem with a piecewise linear loss and few rows.

Steps in two dual variables at a time (one, where no intercept is free) cost little where the Gram matrix is
small, and mostly tell soon which rows lie at the kink. Where they need long, they are given up.
"""

import numpy as np
from scipy.sparse import issparse, vstack

from .. import passes_kernel as passes
from ..rows import as_matrix
from .crossover import is_free

FEW_ROWS, FEW_ENTRIES = 1000, 1 << 22
TOLERANCES = 1e-2, 1e-3  # of the violation, relative to the largest target
WORK = 1.5e6  # steps times rows for each of them: some milliseconds


def are_few(blocks):
    """Whether a guess is worth its cost."""
    return blocks.n_rows <= FEW_ROWS and blocks.n_entries <= FEW_ENTRIES and not blocks.remote


def guesses(objective, target, m, lo, hi):
    """(dual variables per unit of weight, which rows seem to lie at the kink), one after the other."""
    penalty, n = objective.penalty, len(target)
    parts = objective.blocks.map(lambda block: as_matrix(block.rows, objective.n_features))
    X = vstack(parts, format="csr") if issparse(parts[0]) else np.concatenate(parts).astype(np.float64)
    K = X @ X.T
    K = (K.toarray() if issparse(K) else K) / penalty.l2
    free = is_free(objective)
    if objective.fit_intercept and not free:
        K += 1.0 / penalty.l2_intercept
    lo, hi = m * lo, m * hi
    a, g = np.clip(0.0, lo, hi), -target.astype(np.float64)
    solve = passes.solve_pairs if free else passes.solve_singles
    for tol in TOLERANCES:
        steps = int(WORK / n)
        if solve(K, a, lo, hi, g, tol * np.abs(target).max(), steps) == steps:
            return
        yield np.divide(a, m, out=np.zeros(n), where=m > 0), (a > lo) & (a < hi)
