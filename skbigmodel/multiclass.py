"""Several classes by binary problems: how they are posed, and how their raw predictions make a class."""

from typing import NamedTuple

import numpy as np

from .validation import by_row


class Problem(NamedTuple):
    """A class against another one, or against all others."""

    positive: int
    negative: int | None = None

    def split(self, codes):
        """(1.0 for rows of the positive class and else 0.0, which rows take part or ``None`` for all)."""
        y = by_row(self._is_positive, codes)
        return y, None if self.negative is None else by_row(self._takes_part, codes)

    def _is_positive(self, codes):
        return (codes == self.positive).astype(np.float64)

    def _takes_part(self, codes):
        return (codes == self.positive) | (codes == self.negative)


def binary_problems(n_classes, scheme):
    """The problems of a scheme, ``"ovr"`` or ``"ovo"``; of two classes the second is the positive one.

    For pairs of more than two classes that is the first of the pair, as in scikit-learn's SVC.
    """
    if n_classes == 2:
        return [Problem(1)]
    if scheme == "ovr":
        return [Problem(k) for k in range(n_classes)]
    return [Problem(i, j) for i in range(n_classes) for j in range(i + 1, n_classes)]


def _for_and_against(z, n_classes):
    """For each pair of classes its columns i and j, and the raw predictions for i."""
    for k, (i, j) in enumerate(binary_problems(n_classes, "ovo")):
        yield i, j, z[:, k]


def count_votes(z, n_classes, is_for_first=np.greater):
    """Votes for each class (n, n_classes) of raw predictions of all pairs (n, n_pairs)."""
    votes = np.zeros((len(z), n_classes))
    for i, j, pair in _for_and_against(z, n_classes):
        first = is_for_first(pair, 0.0)
        votes[:, i] += first
        votes[:, j] += ~first
    return votes


def scores_of_pairs(z, n_classes):
    """Votes for each class, ties broken by the sum of its raw predictions pressed into (-1/3, 1/3).

    A raw prediction of 0 is a vote for the first class of the pair here, and for the second one where votes
    alone decide: scikit-learn's SVC has it so.
    """
    sums = np.zeros((len(z), n_classes))
    for i, j, pair in _for_and_against(z, n_classes):
        sums[:, i] += pair
        sums[:, j] -= pair
    return count_votes(z, n_classes, np.greater_equal) + sums / (3.0 * (np.abs(sums) + 1.0))
