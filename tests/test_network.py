"""The network's passes: gradients against differences, layouts, weights, noise, steps and schedules."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skbigmodel import network, optimizers
from skbigmodel.activations import ACTIVATIONS, Relu, Tanh
from skbigmodel.blocks import ArrayBlocks
from skbigmodel.network import NetworkObjective, make_network, make_room, pack, raw_outputs, unpack
from skbigmodel.passes_network import Noise, Plan, Walk, column_sums, pass_back, run_steps, shard_gradient
from skbigmodel.passes_parameters import Plain, Scaled
from skbigmodel.rows import as_rows
from skbigmodel.solvers.epochs import Epochs, Recipe

RELU = Relu()  # as in the tests of the estimator, whose kernels are compiled anyway


def problem(softmax=True, n=60, p=7, hidden=(5, 4), activation=RELU, weighted=True, alpha=0.3, **kwargs):
    """An objective and a point."""
    rng = np.random.default_rng(0)
    X, K = rng.standard_normal((n, p)), 3
    Y = rng.integers(0, K, (n, 1)) if softmax else rng.integers(0, 2, (n, K))
    s = rng.uniform(0.5, 2.0, n) if weighted else None
    net = make_network((p, *hidden, K), activation, softmax)
    objective = NetworkObjective(ArrayBlocks(X, Y.astype(np.int32), s), net, alpha, **kwargs)
    return objective, 0.7 * rng.standard_normal(objective.n_params)


def room_for(objective, batch, dtype, n_params=None):
    """Work space for batches of that many rows."""
    return make_room(objective.net, batch, dtype, objective.blocks.sparse, n_params or objective.n_params)


def oracle(objective, theta):
    """The objective once more, in NumPy."""
    net, X, Y, s = objective.net, objective.blocks.X, objective.blocks.y, objective.blocks.s
    coefs, intercepts = unpack(net, theta)
    z = raw_outputs(X, coefs, intercepts, net.activation)
    s = np.ones(len(X)) if s is None else s
    targets = (Y == np.arange(z.shape[1])) if net.softmax else Y
    if net.softmax:
        targets = (1 - objective.smoothing) * targets + objective.smoothing / z.shape[1]
        losses = np.log(np.exp(z).sum(axis=1)) - (targets * z).sum(axis=1)
    else:
        targets = (1 - objective.smoothing) * targets + objective.smoothing / 2
        losses = (np.logaddexp(0, z) - targets * z).sum(axis=1)
    return (s @ losses + objective.alpha / 2 * sum((W * W).sum() for W in coefs)) / s.sum()


def differences(function, theta, h=1e-6):
    """Central differences."""
    return np.array([(function(theta + e) - function(theta - e)) / (2 * h) for e in h * np.eye(theta.size)])


FORM = Scaled(biases=0.5, scales=3.0)


def layers_of(net, theta, form=FORM):
    """The layers' parameters once more, in NumPy: NTP weights, scaled biases, rows times their scales."""
    n, scales = net.widths[0], theta[net.biases[-1] :] * form.scales
    layers = theta[: net.biases[-1]].copy()
    for k, width in enumerate(net.widths[:-1]):
        layers[net.weights[k] : net.weights[k + 1]] /= np.sqrt(width)
    layers[: net.weights[1]] = (layers[: net.weights[1]].reshape(n, -1) * scales[:, None]).ravel()
    layers[net.biases[0] :] *= form.biases
    return layers


def gradient_error(*args, **kwargs):
    """Of value and gradient, by the formula and by its differences along random directions."""
    objective, theta = problem(*args, **kwargs)
    value, grad = objective.value_grad(theta)
    along = np.random.default_rng(1).standard_normal((5, theta.size))
    along /= np.linalg.norm(along, axis=1)[:, None]
    slopes = [differences(lambda t, d=d: objective.value_grad(theta + t * d)[0], np.zeros(1)) for d in along]
    return max(abs(value - oracle(objective, theta)), np.abs(along @ grad - np.ravel(slopes)).max())


def step_error(decay):
    """How far a step in scaled parameters is from the slope of the objective in them; weights may decay."""
    objective, layers = problem(n=40)
    net = objective.net
    theta = FORM.gather(net, layers)
    theta[-7:] = np.linspace(-0.5, 1.0, 7)
    slope = differences(lambda t: oracle(objective, layers_of(net, t)), theta)
    plan = Plan(optimizers.Sgd(), FORM, objective.alpha, decay, np.inf, 0.0, 40)
    walk = Walk(theta.copy(), np.zeros((1, theta.size)), np.array([0, 0]))
    room = room_for(objective, 40, theta.dtype, theta.size)
    rows, order = as_rows(objective.blocks.X), np.arange(40)
    run_steps(net, rows, objective.targets(), order, walk, plan, room, np.array([0.1]))
    theta[: net.biases[0]] *= 1 - 0.1 * decay
    return np.abs((theta - walk.theta) / 0.1 - slope).max()


# each combination would have to be compiled: the formulas run as plain Python instead
GRADIENTS = """
import itertools, json, sys
sys.path.insert(0, sys.argv[1])
from test_network import ACTIVATIONS, gradient_error, step_error
worst = dict.fromkeys(ACTIVATIONS, 0.0)
for name, softmax, weighted, alpha in itertools.product(ACTIVATIONS, (0, 1), (0, 1), (0.0, 0.3)):
    activation = ACTIVATIONS[name]()
    error = gradient_error(softmax, 6, 3, (3, 2), activation, weighted, alpha, smoothing=alpha / 2)
    worst[name] = max(worst[name], error)
print(json.dumps([worst, step_error(0.0), step_error(0.2)]))
"""


@pytest.fixture(scope="module")
def errors(run_python):
    """Of gradients and steps that run as plain Python."""
    return json.loads(run_python(GRADIENTS, __file__.rpartition("/")[0], NUMBA_DISABLE_JIT="1").stdout)


def test_gradients(errors):
    """Every activation, loss, weighting and penalty: the value is the formula's, the gradient its slope."""
    assert set(errors[0]) == set(ACTIVATIONS)
    assert max(errors[0].values()) < 2e-9, errors[0]


def test_scaled_steps_are_along_the_slope(errors):
    """Of the objective in the parameters that are moved, by differences; weights may decay besides."""
    assert max(errors[1:]) < 1e-7


# tanh is what lbfgs is compared with scikit-learn with
@pytest.mark.parametrize("activation", [RELU, Tanh()], ids=["relu", "tanh"])
@pytest.mark.parametrize("softmax", [True, False])
def test_compiled_gradient(softmax, activation):
    """The kernel computes what the formulas say."""
    objective, theta = problem(softmax, activation=activation, smoothing=0.1)
    value, grad = objective.value_grad(theta)
    assert_allclose(value, oracle(objective, theta), rtol=1e-13)
    assert_allclose(grad, differences(lambda t: oracle(objective, t), theta), atol=1e-8)


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_pass_back(n_outputs):
    """The chain rule from one layer to the one before, and the gradient of its biases."""
    rng = np.random.default_rng(0)
    D, W, slopes = (rng.standard_normal(shape) for shape in ((7, n_outputs), (5, n_outputs), (7, 5)))
    expected, sums = slopes * (D @ W.T), np.empty(5)
    pass_back(D, W, np.empty((7, 5)), slopes)
    assert_allclose(slopes, expected, rtol=1e-14, atol=1e-15)
    column_sums(slopes, sums)
    assert_allclose(sums, expected.sum(axis=0), rtol=1e-13)


def test_sparse_rows():
    """CSR rows, their entries in any order or more than once, give the dense gradient."""
    objective, theta = problem()
    dense = np.where(objective.blocks.X > 0.3, objective.blocks.X, 0.0)
    X = sparse.csr_array(dense)
    X = sparse.csr_array((np.repeat(X.data / 2, 2), np.repeat(X.indices, 2), 2 * X.indptr), dense.shape)
    results = [
        NetworkObjective(
            ArrayBlocks(X, objective.blocks.y, objective.blocks.s), objective.net, 0.3
        ).value_grad(theta)
        for X in (dense, X)
    ]
    assert_allclose(results[1][0], results[0][0], rtol=1e-13)
    assert_allclose(results[1][1], results[0][1], atol=1e-14)


def test_many_rows_on_threads():
    """Blocks and threads change nothing but the order of sums, and threads not even that."""
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((3000, 400)), rng.integers(0, 3, (3000, 1)).astype(np.int32)
    net = make_network((400, 5, 4, 3), RELU, True)
    theta = 0.1 * rng.standard_normal(net.biases[-1])
    values, grads = zip(
        *(NetworkObjective(ArrayBlocks(X, Y, None, n), net, 0.1).value_grad(theta) for n in (1, 2))
    )
    assert len(ArrayBlocks(X, Y).blocks) > 1
    assert values[0] == values[1]
    assert_array_equal(*grads)
    assert_allclose(values[0], oracle(NetworkObjective(ArrayBlocks(X, Y), net, 0.1), theta), rtol=1e-12)


def epoch(
    objective,
    theta,
    clip=np.inf,
    decay=0.0,
    dtype=np.float64,
    optimizer=optimizers.Sgd(),
    batch=40,
    room=None,
):
    """One epoch of batches in their order; the new parameters and the loss."""
    plan = Plan(optimizer, Plain(), objective.alpha, decay, clip, 0.0, batch)
    theta, rates = theta.astype(dtype), np.full(-(-objective.blocks.n_rows // batch), 0.1)
    moments, clock = np.zeros((optimizer.n_moments, theta.size), dtype), np.array([0, 77])
    order, room = np.arange(objective.blocks.n_rows), room or room_for(objective, batch, theta.dtype)
    rows = as_rows(objective.blocks.X.astype(dtype))
    walk = Walk(theta, moments, clock)
    loss = run_steps(objective.net, rows, objective.targets(), order, walk, plan, room, rates)
    return theta, loss / order.size


def test_steps():
    """Plain steps along the gradient of each batch, whose losses are taken before the steps."""
    objective, theta = problem()
    after, loss = epoch(objective, theta)
    blocks, value = objective.blocks, 0.0
    for part in (slice(0, 40), slice(40, 60)):
        batch = ArrayBlocks(blocks.X[part], blocks.y[part], blocks.s[part])
        batch = NetworkObjective(batch, objective.net, objective.alpha)
        f, g = batch.value_grad(theta)
        value, theta = value + f * batch.blocks.n_rows / 60, theta - 0.1 * g
    assert_allclose(after, theta, rtol=1e-12)
    assert_allclose(loss, value, rtol=1e-13)


def test_clipped_and_decayed_steps():
    """A gradient is shortened to the norm asked for; weights decay by rate times decay, biases do not."""
    objective, theta = problem(n=40)
    step = theta - epoch(objective, theta)[0]
    clipped = theta - epoch(objective, theta, clip=0.01)[0]
    assert_allclose(np.linalg.norm(clipped), 0.1 * 0.01, rtol=1e-9)
    assert_allclose(clipped / np.linalg.norm(clipped), step / np.linalg.norm(step), rtol=1e-7)
    decayed = theta - epoch(objective, theta, decay=0.5)[0]
    n = objective.net.weights[-1]
    assert_allclose((decayed - step)[:n], 0.05 * theta[:n], rtol=1e-7, atol=1e-12)
    assert_allclose(decayed[n:], step[n:], rtol=1e-9)


def test_float32_steps():
    """In single precision, to single precision."""
    objective, theta = problem()
    single, loss = epoch(objective, theta, dtype=np.float32, optimizer=optimizers.Adam())
    double, reference = epoch(objective, theta, optimizer=optimizers.Adam())
    assert single.dtype == np.float32
    assert_allclose(single, double, rtol=2e-3, atol=2e-4)
    assert_allclose(loss, reference, rtol=1e-6)


def test_dropout():
    """A share of the units is 0, the others are scaled up; the gradient is that of the thinned network."""
    objective, theta = problem(n=40, hidden=(400,))
    net = objective.net
    theta[net.biases[0] : net.biases[1]] = 10.0  # so that no unit is 0 by itself
    theta[net.weights[1] : net.weights[2]] *= 0.01
    room = room_for(objective, 40, theta.dtype)
    arguments = objective.net, as_rows(objective.blocks.X), objective.targets(), np.arange(40), theta, room
    shard_gradient(*arguments, Noise(0.0, 0), 1.0)
    whole = room.A[: 40 * 400].copy()
    shard_gradient(*arguments, Noise(0.25, 5), 1.0)
    thin = room.A[: 40 * 400].copy()
    assert (whole > 0.0).all()
    assert abs(np.mean(thin == 0) - 0.25) < 0.02
    assert_allclose(thin[thin != 0], whole[thin != 0] / 0.75, rtol=1e-12)
    mask = (thin != 0).reshape(40, 400)
    assert 0 < np.abs(np.corrcoef(mask.T)[np.triu_indices(400, 1)]).max() < 0.9  # no unit follows another
    grad, h = room.grad.copy(), 1e-6
    for k in np.random.default_rng(0).choice(theta.size, 20):
        e = np.eye(1, theta.size, k)[0] * h
        up, down = (shard_gradient(*arguments[:4], theta + d, room, Noise(0.25, 5), 1.0) for d in (e, -e))
        assert_allclose(grad[k], (up - down) / (2 * h), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", [optimizers.Adam(), optimizers.Sgd(0.9, True)], ids=["adam", "sgd"])
def test_nothing_fades_into_subnormal_numbers(optimizer):
    """With float32 and units whose gradient fades to 0: they are slow, and mean nothing."""
    theta, moments = np.ones(60, np.float32), np.zeros((optimizer.n_moments, 60), np.float32)
    sizes = (10.0 ** -np.arange(60)).astype(np.float32)
    for t in range(1, 3001):
        optimizer.step(theta, sizes if t < 3 else 0 * sizes, moments, t, 1e-3)
    parts = np.abs(np.append(theta, moments))
    assert (parts[parts < np.finfo(np.float32).tiny] == 0).all()
    for objective, theta in map(problem, (True, False)):
        room = room_for(objective, 60, np.float32)
        theta = np.append(theta[:-3], [0, 80, -120])
        epoch(objective, theta, dtype=np.float32, optimizer=optimizers.Adam(), batch=60, room=room)
        assert (np.abs(room.D[room.D != 0]) >= np.finfo(np.float32).tiny).all()


def training(n_threads, dropout=0.0, n=700):
    """Parameters after two epochs of a network that is large enough for its batches to be cut."""
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((n, 300)), rng.integers(0, 3, (n, 1)).astype(np.int32)
    net = make_network((300, 120, 3), Relu(), True)
    objective = NetworkObjective(ArrayBlocks(X, Y, None, n_threads), net, 1e-3)
    recipe = Recipe("adam", optimizers.Adam(), 1e-3, batch_size=500, alpha=1e-3, dropout=dropout)
    solver = Epochs(objective, recipe)
    start = network.start(net, "glorot_uniform", np.random.RandomState(0), np.float64)
    state = solver.begin(start, np.random.RandomState(1), np.arange(n))
    for _ in range(2):
        solver.advance(state)
    return solver, state


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_batches_cut_for_threads(dropout, monkeypatch):
    """The same bits for any number of threads; without noise the same steps as uncut up to rounding."""
    (solver, one), (_, two) = training(1, dropout), training(2, dropout)
    assert solver.steps.n_shards == 2
    assert_array_equal(one.theta, two.theta)
    assert one.value == two.value
    monkeypatch.setattr(network, "MAX_SHARDS", 1)
    uncut, whole = training(1, dropout)
    assert uncut.steps.n_shards == 1
    if not dropout:
        assert_allclose(whole.theta, one.theta, rtol=1e-9, atol=1e-11)
        assert_allclose(whole.value, one.value, rtol=1e-12)


def test_a_last_batch_smaller_than_its_parts(monkeypatch):
    """Of one row, for two threads."""
    solver, cut = training(2, n=501)
    monkeypatch.setattr(network, "MAX_SHARDS", 1)
    assert solver.steps.n_shards == 2
    assert_allclose(training(1, n=501)[1].theta, cut.theta, rtol=1e-9, atol=1e-11)


def test_packing():
    """Flat vectors and matrices are two views of one thing."""
    objective, theta = problem()
    coefs, intercepts = unpack(objective.net, theta)
    assert [W.shape for W in coefs] == [(7, 5), (5, 4), (4, 3)] and [b.size for b in intercepts] == [5, 4, 3]
    assert_array_equal(pack(coefs, intercepts, np.float64), theta)


@pytest.mark.parametrize(
    "init, variance",
    [
        ("glorot_normal", 2 / 500),
        ("he_uniform", 2 / 300),
        ("he_normal", 2 / 300),
        ("lecun_uniform", 1 / 300),
        ("lecun_normal", 1 / 300),
    ],
)
def test_initial_weights(init, variance):
    """Mean 0 and the variance of the scheme; biases 0."""
    net = make_network((300, 200), Relu(), True)
    theta = network.start(net, init, np.random.RandomState(0), np.float64)
    (W,), (b,) = unpack(net, theta)
    assert_allclose(W.var(), variance, rtol=0.02)
    assert abs(W.mean()) < 5 * np.sqrt(variance / W.size) and not b.any()


def test_schedules():
    """Ends, turning points and bounds."""
    t = np.linspace(0, 1, 1001)
    assert_allclose(optimizers.cosine(np.array([0, 0.5, 1])), [1, 0.5, 0], atol=1e-15)
    ends = np.log2(np.array([1, 2, 4, 8, 16]))
    assert_allclose(optimizers.coslog4((2**ends - 1) / 15), 0, atol=1e-12)
    assert_allclose(optimizers.coslog4((2 ** (ends[:-1] + 0.5) - 1) / 15), 1, rtol=1e-12)
    assert_allclose(optimizers.onecycle(np.array([0, 0.3, 1])), [0.04, 1, 4e-6], rtol=1e-9)
    for schedule in optimizers.SCHEDULES.values():
        assert (schedule(t) >= 0).all() and (schedule(t) <= 1).all()
