"""What an interior-point iteration does to the rows of a block, whose loss is made of pieces.

``rows`` are the pieces that a block keeps: a list of Pieces, one or two for each row.
"""

from itertools import repeat
from typing import NamedTuple

import numpy as np

from .. import passes_piecewise as passes
from ..passes_linear import add_weighted, decision
from .crossover import KINK, sides_of


class Facts(NamedTuple):
    """Of the pieces of all rows."""

    n_pieces: int  # of a row
    steepest: float
    widest: float  # hi - lo
    m: float  # sum of the weights, 1 up to rounding, ...
    n_counting: int  # ... and how many are not 0
    size: float  # weighted sums of the targets' sizes ...
    mean: float  # ... and of the targets

    @staticmethod
    def joined(a, b):
        """Of two sets of rows."""
        extremes = max(a.steepest, b.steepest), max(a.widest, b.widest)
        return Facts(a.n_pieces, *extremes, *(x + y for x, y in zip(a[3:], b[3:], strict=True)))


class PieceModel(NamedTuple):
    """A piecewise linear loss of rows with that total weight."""

    loss: object
    weight: float
    fit_intercept: bool

    def parts(self, block):
        """[(target, lo, hi), …] with an entry per row."""
        n = len(block.y)
        return [tuple(entries(part, n) for part in piece) for piece in self.loss.pieces(block.y)]

    def weights(self, block):
        """Shares of the rows in the total weight."""
        return entries(block.s / self.weight, len(block.y))

    def _target(self, block):
        parts = self.parts(block)
        return sum(target for target, _, _ in parts) / len(parts)

    def facts(self, block):
        """:class:`Facts`."""
        parts, m, target = self.parts(block), self.weights(block), self._target(block)
        steepest = max(max(-lo.min(), hi.max()) for _, lo, hi in parts)
        widest = max((hi - lo).max() for _, lo, hi in parts)
        sums = m.sum(), np.count_nonzero(m), m @ np.abs(target), m @ target
        return Facts(len(parts), float(steepest), float(widest), *map(float, sums))

    def deviation(self, mean, block):
        """Weighted sum of the distances of targets from their mean."""
        return float(self.weights(block) @ np.abs(self._target(block) - mean))

    def pieces(self, block):
        """Pieces without a point yet."""
        n, m = len(block.y), block.s / self.weight
        return [passes.make_pieces(n, m, hi - lo) for _, lo, hi in self.parts(block)]

    def centre(self, mu, block, rows):
        """Put the point where complementarity is ``mu``."""
        for pieces in rows:
            passes.centre(pieces, mu)
        return 0.0

    def sides(self, spread, block, rows):
        """Where the rows seem to lie, as ``crossover`` has it; the loss has one piece for each row."""
        (pieces,), ((_, lo, hi),) = rows, self.parts(block)
        p, q = pieces.distances()
        at_kink = (pieces.u < p * spread) & (pieces.v < q * spread)
        return sides_of(pieces.duals(lo, hi), lo, hi, at_kink & (pieces.m > 0))

    def kinks(self, block, rows, side):
        """(numbers, dual variables) of the rows at the kink."""
        (pieces,), ((_, lo, hi),), at = rows, self.parts(block), np.flatnonzero(side == KINK)
        return block.start + at, pieces.duals(lo, hi)[at]

    def one(self, block):
        """(target, m, lo, hi) of the rows of a loss with one piece for each."""
        ((target, lo, hi),) = self.parts(block)
        return target, self.weights(block), lo, hi

    def row_weights(self, block, start, stop, d):
        """Those of the rows, as ``weighted_gram`` takes them."""
        d[: stop - start] = self.weights(block)[start:stop]

    def weighted_targets(self, block, out):
        """Add Σ m·target·(x, 1) to ``out``."""
        return self.add_rows(block, self.weights(block) * self._target(block), out)

    def pull(self, mu, bend, block, rows, out):
        """Add what the pieces pull to ``out``."""
        return self.add_rows(block, pulls(mu, bend, block, rows), out)

    def add_rows(self, block, g, out):
        """Add Σ g·(x, 1) over the rows of a block to ``out``."""
        add_weighted(block.rows, g, out)
        if self.fit_intercept:
            out[-1] += g.sum()
        return 0.0

    def aim(self, theta, mu, bend, final, block, rows):
        """Put the direction; what limits the steps."""
        dz = np.empty(len(block.y))
        decision(block.rows, theta, self.fit_intercept, dz)
        return np.max([passes.aim(pieces, dz, mu, bend, final) for pieces in rows], axis=0)

    def look(self, theta, step, block, rows):
        """Take the step, if any, and set e; the gap, and Σ m·d·(x, 1)."""
        if step:
            for pieces in rows:
                passes.step(pieces, *step)
        out, z, parts = np.zeros(theta.size), np.empty(len(block.y)), self.parts(block)
        d = sum(pieces.m * pieces.duals(lo, hi) for pieces, (_, lo, hi) in zip(rows, parts, strict=True))
        intercept = theta[-1] if self.fit_intercept else 0.0
        passes.predict_and_add(block.rows, theta, intercept, d, z, out)
        if self.fit_intercept:
            out[-1] += d.sum()
        targets = (target for target, _, _ in parts)
        return sum(map(passes.look, rows, targets, repeat(z))), out


def entries(value, n):
    """An array of n entries of its own, from one or from one for all."""
    return np.full(n, value, np.float64) if np.size(value) == 1 else np.array(value)


def size_of_errors(block, rows):
    return float((rows[0].m * np.abs(rows[0].e)).sum())


def stiffness(block, rows, start, stop, Q):
    Q[: stop - start] = 0.0
    for pieces in rows:
        passes.stiffness(pieces.cut(start, stop), Q[: stop - start])


def complementarity(lengths, block, rows):
    return np.array([sum(passes.complementarity(pieces, *way) for pieces in rows) for way in lengths])


def pulls(mu, bend, block, rows):
    g = np.zeros(len(block.y))
    for pieces in rows:
        passes.pull(pieces, mu, bend, g)
    return g
