"""Sums along a fixed binary tree, which do not depend on the order in which their parts are ready."""

import threading

import numpy as np


class Tree:
    """Combines numbered parts along a fixed binary tree.

    So the result is the same, bit for bit, in whatever order the parts come and wherever pairs are combined.

    Parameters
    ----------
    n_parts : int
    combine : callable
        ``combine(left, right)``; it may overwrite ``left``.

    Attributes
    ----------
    nodes : dict
        (level, number) -> what waits there for its sibling; in the end the root alone.
    """

    def __init__(self, n_parts, combine):
        self.n_parts, self.combine, self.nodes, self._lock = n_parts, combine, {}, threading.Lock()

    def add(self, part, number, level=0):
        """Put the part into its place, and combine what is complete."""
        while last := (self.n_parts - 1) >> level:  # else there is but one node on this level
            sibling = number ^ 1
            if sibling <= last:
                with self._lock:
                    other = self.nodes.pop((level, sibling), None)
                    if other is None:
                        self.nodes[level, number] = part
                        return
                part = self.combine(part, other) if number < sibling else self.combine(other, part)
            level, number = level + 1, number >> 1
        self.nodes[level, number] = part

    @property
    def root(self):
        """All parts combined."""
        (part,) = self.nodes.values()
        return part


def add_sums(left, right):
    """Add two results of a pass: a number and an array each."""
    return left[0] + right[0], np.add(left[1], right[1], out=left[1])
