"""SAGA: the slopes of each row are remembered from its last visit, and their mean gradient corrects each
step.

The rest (coordinates, rates, epochs that are undone) is as in ``minibatch``.

References
----------
A. Defazio, F. Bach and S. Lacoste-Julien, "SAGA: a fast incremental gradient method with support for
non-strongly convex composite objectives", NIPS (2014).
"""

import numpy as np

from ..passes_stochastic import Anchor, fill_table
from .minibatch import SGD


class Saga(SGD):
    """Smooth losses with any penalty. On a stream, where no row comes back, it is :class:`SGD`."""

    name = "saga"

    @staticmethod
    def refusal(objective):
        """Why the optimum is out of reach, or ``None``."""
        if objective.blocks.remote:
            return "what it remembers of each row is kept in one place, and the rows lie on a cluster"
        return SGD.refusal(objective)

    def init(self, theta):
        """Evaluate the start, with the slopes of all rows."""
        state = super().init(theta)
        self._forget(state)
        return state

    def _forget(self, state):
        matrix, table = self._matrix(state.theta), np.empty((self.blocks.n_rows, self.shape[0]))

        def fill(block):
            fill_table(block.rows, block.y, self.head, matrix, table[block.start : block.stop])

        if self.auto:
            self.blocks.map(fill)
            state.table, state.table_grad = table, self._matrix(self._loss_grad(state))

    def _anchor(self, state):
        return Anchor(np.empty((0, 0)), state.table_grad.copy(), state.table.copy())

    def _keep_anchor(self, state, anchor):
        state.table, state.table_grad = anchor.table, anchor.grad
