"""The iteration loop: when it stops and why, what it keeps, what it reports."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skbigmodel.solvers import driver
from skbigmodel.solvers.driver import MESSAGES, Control, gap_tolerance, is_converged, minimize


@dataclass
class State:
    """As solvers keep it, with the number of the iterate."""

    theta: np.ndarray
    value: float = 10.0
    optimality: float = 1.0
    gap: float = 1.0
    stalled: bool = False
    count: int = 0
    told: list = field(default_factory=list)


class Scripted:
    """A solver that goes through a list of what to put into the state; a callable is called."""

    name = "scripted"

    def __init__(self, *script, **start):
        self.script, self.start = script, start

    def init(self, theta):
        return State(theta, **self.start)

    def advance(self, state):
        entry = self.script[min(state.count, len(self.script) - 1)]
        state.count += 1
        state.theta = np.array([float(state.count)])
        for name, setting in (entry() if callable(entry) else entry).items():
            setattr(state, name, setting)


START = np.zeros(1)
CONVERGED = {"value": 1.0, "optimality": 1e-6, "gap": 1e-12}


def falling(*values):
    return [{"value": value} for value in values]


def test_converged():
    """It stops at the first iterate that passes both tests, with the curve up to it."""
    result = minimize(Scripted(*falling(9.0, 8.0), CONVERGED), START, Control())
    assert (result.status, result.n_iter, result.curve) == ("converged", 3, [9.0, 8.0, 1.0])
    assert_array_equal(result.theta, [3.0])
    assert result.optimality == 1e-6 and result.state.count == 3


@pytest.mark.parametrize("half", [{"optimality": 1e-6, "gap": 1e-3}, {"optimality": 1.0, "gap": 0.0}])
def test_both_tests_count(half):
    """A small gradient with a large gap is not the optimum, nor the reverse."""
    result = minimize(Scripted({"value": 1.0, **half}), START, Control(max_iter=5))
    assert (result.status, result.n_iter) == ("max_iter", 5)


def test_is_converged():
    """The gap is relative to the value, at 1e-5·tol; a value of 0 asks for a gap of 0."""
    state = State(START, value=-2.0, optimality=1e-4, gap=2e-9)
    assert is_converged(state, 1e-4)
    state.gap = 2.1e-9
    assert not is_converged(state, 1e-4)
    state.gap, state.value = 0.0, 0.0
    assert is_converged(state, 1e-4)
    state.optimality = np.nextafter(1e-4, 1)
    assert not is_converged(state, 1e-4)
    assert gap_tolerance(1e-4) == pytest.approx(1e-9) and gap_tolerance(0.0) == 4e-16


@pytest.mark.parametrize("n", [0, 1, 7])
def test_max_iter(n):
    """That many iterations; with none the start is the result."""
    result = minimize(Scripted(*falling(*np.arange(9.0, 0.0, -1))), START, Control(max_iter=n))
    assert (result.status, result.n_iter, len(result.curve)) == ("max_iter", n, n)
    assert_array_equal(result.theta, [float(n)])
    assert result.optimality == 1.0


def test_the_best_iterate_is_kept():
    """Of iterates that go down and up again the lowest, with its optimality; the state is the last."""
    script = [
        {"value": 5.0, "optimality": 0.5},
        {"value": 3.0, "optimality": 0.3},
        {"value": 4.0, "optimality": 0.4},
    ]
    result = minimize(Scripted(*script), START, Control(max_iter=3))
    assert_array_equal(result.theta, [2.0])
    assert result.optimality == 0.3 and result.state.count == 3
    assert result.curve == [5.0, 3.0, 4.0]


def test_the_certified_iterate_is_kept():
    """Of iterates with one value the one that passed the tests."""
    script = [{"value": 1.0, "optimality": 0.1}, {"value": 1.0 + 1e-16, "optimality": 0.0, "gap": 0.0}]
    result = minimize(Scripted(*script), START, Control())
    assert result.status == "converged" and result.optimality == 0.0
    assert_array_equal(result.theta, [2.0])


def test_loss_threshold():
    """The first iterate that is low enough ends the run; the start may already be."""
    control = Control(loss_threshold=5.0)
    result = minimize(Scripted(*falling(9.0, 5.0, 1.0)), START, control)
    assert (result.status, result.n_iter, result.curve) == ("loss_threshold", 2, [9.0, 5.0])
    result = minimize(Scripted(*falling(1.0), value=5.0), START, control)
    assert (result.status, result.n_iter, result.curve) == ("loss_threshold", 0, [5.0])
    assert_array_equal(result.theta, START)


def test_max_time(monkeypatch):
    """The clock is looked at after each iteration; the one under way is finished."""
    clock = iter(np.arange(0.0, 100.0, 1.0))
    monkeypatch.setattr(driver.time, "monotonic", lambda: next(clock))
    result = minimize(Scripted(*falling(*np.arange(50.0, 0.0, -1))), START, Control(max_time=4.0))
    assert (result.status, result.n_iter) == ("max_time", 4)


def test_stalled():
    """A solver that can do no more says so; convergence goes before."""
    result = minimize(Scripted(*falling(3.0), {"stalled": True}), START, Control())
    assert (result.status, result.n_iter) == ("stalled", 2)
    assert minimize(Scripted({**CONVERGED, "stalled": True}), START, Control()).status == "converged"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_divergence(value):
    """An objective that is not finite names iteration, solver and what to do."""
    with pytest.raises(ValueError, match="iteration 2 of solver 'scripted'.*Lower learning_rate"):
        minimize(Scripted(*falling(9.0, value)), START, Control())


def test_data_that_are_not_finite():
    """A start without a gradient is the data's fault, not the solver's."""
    with pytest.raises(driver.NotFinite):
        minimize(Scripted(*falling(1.0), optimality=np.nan), START, Control())


def interrupt():
    raise KeyboardInterrupt


def test_interrupt():
    """Ctrl-C ends the run with the best iterate so far, whenever it comes."""
    result = minimize(Scripted(*falling(5.0, 3.0, 4.0), interrupt), START, Control())
    assert (result.status, result.n_iter, result.curve) == ("interrupted", 3, [5.0, 3.0, 4.0])
    assert_array_equal(result.theta, [2.0])
    result = minimize(Scripted(interrupt), START, Control())
    assert (result.status, result.n_iter, result.curve) == ("interrupted", 0, [])
    assert_array_equal(result.theta, START)


def test_watch():
    """It hears of every iteration, the last one too, and ends the run by returning true."""
    heard = []

    def watch(n_iter, state):
        heard.append((n_iter, state.value))
        return n_iter == 3

    result = minimize(Scripted(*falling(9.0, 8.0, 7.0, 6.0)), START, Control(watch=watch))
    assert (result.status, result.n_iter) == ("callback", 3)
    assert heard == [(1, 9.0), (2, 8.0), (3, 7.0)]
    heard.clear()
    minimize(Scripted(*falling(9.0), CONVERGED), START, Control(watch=watch))
    assert heard == [(1, 9.0), (2, 1.0)]


def test_early_stopping():
    """n_iter_no_change iterations without a better score; the best-scored iterate is kept,
    not the lowest.
    """
    scores = [0.1, 0.5, 0.9, 0.9, 0.2, 0.8, 1.0]
    control = Control(score=lambda theta: scores[int(theta[0]) - 1], n_iter_no_change=3)
    result = minimize(Scripted(*falling(*np.arange(9.0, 0.0, -1))), START, control)
    assert (result.status, result.n_iter, result.scores) == ("early_stopping", 6, scores[:6])
    assert_array_equal(result.theta, [3.0])


def test_scores_and_convergence():
    """The optimum ends the run all the same; what is kept is still the best score."""
    control = Control(score=lambda theta: -theta[0], n_iter_no_change=3)
    result = minimize(Scripted(*falling(9.0), CONVERGED), START, control)
    assert (result.status, result.n_iter, result.scores) == ("converged", 2, [-1.0, -2.0])
    assert_array_equal(result.theta, [1.0])


def test_going_on_from_a_state():
    """A kept state takes the place of the start; the count is that of this run."""
    solver = Scripted(*falling(9.0, 8.0, 7.0, 6.0))
    first = minimize(solver, START, Control(max_iter=2))
    second = minimize(solver, None, Control(max_iter=2), first.state)
    assert (first.curve, second.curve, second.n_iter) == ([9.0, 8.0], [7.0, 6.0], 2)
    assert_array_equal(second.theta, [4.0])


def test_every_status_has_a_message():
    """Each way to stop is explained."""
    assert set(MESSAGES) == {
        "converged",
        "loss_threshold",
        "early_stopping",
        "no_progress",
        "callback",
        "stalled",
        "max_iter",
        "max_time",
        "interrupted",
    }
