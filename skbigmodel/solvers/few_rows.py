"""The solution of a ridge problem with a piecewise linear loss and few rows, by way of its dual.

With the whole Gram matrix at hand, steps in two dual variables at a time (one, where no intercept is free)
tell soon which rows lie at the kink, and Newton's step for those is exact. Where the steps need long, as for
columns of very different sizes, they are given up.
"""

import numpy as np
from scipy.sparse import issparse, vstack

from .. import passes_kernel as passes
from ..rows import as_matrix
from .crossover import is_free
from .working_set import newton_step, violation

FEW_ROWS, FEW_ENTRIES = 2000, 1 << 22
ROUGH = 1e-3  # violation, relative to the largest target, at which Newton's step is tried first
EXACT = 1e-9  # at which the solution is taken
STEPS, ROUNDS = 20, 5
PARTIAL = 8  # steps of Newton's in a row that a bound stops
WORK = 2e6, 4e3  # steps times rows, and more for each row: half of what the interior point needs, or so


def are_few(blocks):
    """Whether the attempt is worth its cost."""
    return blocks.n_rows <= FEW_ROWS and blocks.n_entries <= FEW_ENTRIES and not blocks.remote


def gram_matrix(objective):
    """Curvature of the dual objective, per unit of weight; kept for other targets of the same rows."""
    blocks, penalty = objective.blocks, objective.penalty
    scales = blocks.weight * penalty.l2, blocks.weight * penalty.l2_intercept
    if blocks.memo.get("gram", (None,))[0] != scales:
        parts = blocks.map(lambda block: as_matrix(block.rows, blocks.n_features))
        X = vstack(parts, format="csr") if issparse(parts[0]) else np.concatenate(parts).astype(np.float64)
        K = X @ X.T
        K = K.toarray() if issparse(K) else K
        K /= scales[0]
        if objective.fit_intercept and not is_free(objective):
            K += 1.0 / scales[1]
        blocks.memo["gram"] = scales, K
    return blocks.memo["gram"][1]


def solve(objective, target, m, lo, hi):
    """(dual variables per unit of weight, which rows lie at the kink, a free intercept).

    ``None`` if that takes long; no intercept if none of the rows tells it.
    """
    K, weight, free = gram_matrix(objective), objective.blocks.weight, is_free(objective)
    s = weight * m
    lo, hi, scale = s * lo, s * hi, np.abs(target).max()
    a, g, rough = np.clip(0.0, lo, hi), -target.astype(np.float64), ROUGH * scale
    work = WORK[0] + WORK[1] * len(a)
    for _ in range(ROUNDS):
        work = passes.solve_active(K, a, lo, hi, g, rough, free, STEPS, work)
        if not work > 0.0:
            return None
        for _ in range(PARTIAL):
            if newton_step(K, lo, hi, a, g, free):
                break
        left = violation(lo, hi, a, g, free)
        if left <= EXACT * scale:
            newton_step(K, lo, hi, a, g, free)  # what the last left by rounding
            at_kink = (a > lo) & (a < hi)
            intercept = -g[at_kink].mean() if at_kink.any() else None
            return np.divide(a, s, out=np.zeros(len(a)), where=s > 0), at_kink, intercept
        rough = min(rough, 0.1 * left)
    return None
