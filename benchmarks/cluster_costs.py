"""What a pass over rows on a Dask cluster costs: constants, their check, and what follows for more rows.

    python benchmarks/cluster_costs.py             measure, check, extrapolate (two minutes)
    python benchmarks/cluster_costs.py --overhead  only the cost of messages

It needs the extra ``skbigmodel[dask]``.

The model of a pass over n rows of p columns in B blocks, K raw predictions a row, with T threads, each of
which gets one task:

    seconds = a + t·T + b·B/T + c·n·p·K/T

``a``, ``t`` and ``b`` are measured with blocks of a few rows, ``c`` in this process, and the sum is compared
with passes over larger blocks.
"""

import argparse
import contextlib
import time
from functools import partial

import numpy as np

from skbigmodel.blocks import ArrayBlocks
from skbigmodel.losses import Logistic
from skbigmodel.objective import LinearObjective
from skbigmodel.penalties import ElasticNet

P = 50
NONE = ElasticNet(0.0, 0.0)


@contextlib.contextmanager
def local_cluster(n_workers=2, **settings):
    """The client of workers on this machine."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise SystemExit("cluster_costs.py needs Dask: pip install skbigmodel[dask]") from error
    with (
        LocalCluster(n_workers=n_workers, dashboard_address=":0", **settings) as cluster,
        Client(cluster) as client,
    ):
        yield client


def median_seconds(function, n=15):
    """Of several calls, after some that warm up."""
    for _ in range(3):
        function()
    times = []
    for _ in range(n):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def objective_on(n_rows, n_blocks):
    """Logistic regression on rows made on the workers."""
    import dask.array as da

    from skbigmodel.dask import take

    rng, chunk = da.random.default_rng(0), -(-n_rows // n_blocks)
    X = rng.normal(size=(n_rows, P), chunks=(chunk, P))
    y = (X[:, 0] > 0).astype(float)
    rows, y = take(X, y, np.dtype(float), np.asarray)
    return LinearObjective(rows.make_blocks(y, None, 1), Logistic(), NONE, True)


def pass_seconds(objective):
    """A pass for loss and gradient."""
    return median_seconds(partial(objective.value_grad, np.zeros(objective.n_params)))


def empty_task(client):
    """A round trip of a task that does nothing."""
    return median_seconds(lambda: client.submit(int, 0, pure=False).result())


def in_memory(n_rows=400_000):
    """Seconds per row and column of a pass in this process on one thread."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, P))
    objective = LinearObjective(ArrayBlocks(X, (X[:, 0] > 0) * 1.0), Logistic(), NONE, True)
    return pass_seconds(objective) / (n_rows * P)


def overhead(client):
    """(a, b), from a straight line through passes over tiny blocks."""
    blocks = [2, 8, 32, 128]
    seconds = [pass_seconds(objective_on(100 * B, B)) for B in blocks]
    print(f"empty task {1e3 * empty_task(client):.1f} ms")
    for B, taken in zip(blocks, seconds, strict=True):
        print(f"pass over {B:4d} blocks {1e3 * taken:7.1f} ms (allowed {15 + B} ms)")
    b, a = np.polyfit(blocks, seconds, 1)
    return a, max(b, 0.0) * sum(client.nthreads().values())


def per_task():
    """t: what one more thread, and so one more task, adds to a pass over tiny blocks."""
    seconds, threads = [], (2, 32, 128)
    for T in threads:
        with local_cluster(threads_per_worker=T // 2, processes=False):
            seconds.append(pass_seconds(objective_on(100 * 128, 128)))
        print(f"pass with {T:4d} tasks {1e3 * seconds[-1]:7.1f} ms")
    return max(np.polyfit(threads, seconds, 1)[0], 0.0)


def check(n_workers, a, b, c):
    """Passes over 1, 2, 4 and 8 times as many rows beside the model."""
    for times in (1, 2, 4, 8):
        n, B = 200_000 * times, 4 * times
        measured = pass_seconds(objective_on(n, B))
        expected = a + b * B / n_workers + c * n * P / n_workers
        print(f"{n_workers} workers, {n:9,d} rows: {1e3 * measured:7.1f} ms, model {1e3 * expected:7.1f} ms")


def extrapolate(a, t, b, c):
    """A pass over many rows."""
    for n, T in ((10**9, 16), (10**9, 128), (10**11, 128), (10**11, 4096)):
        B = n * 8 * P / 128e6
        print(
            f"{n:.0e} rows on {T:5d} threads: {n * P * 8 / 1e12:5.1f} TB in {B:9,.0f} blocks; "
            f"a pass computes {c * n * P / T:7.1f} s, its tasks cost {a + t * T + b * B / T:6.2f} s"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--overhead", action="store_true")
    only = parser.parse_args().overhead
    c = in_memory()
    print(f"compute: {1e9 * c:.2f} ns per entry of X")
    for n_workers in (2,) if only else (1, 2):
        with local_cluster(n_workers, threads_per_worker=1) as client:
            a, b = overhead(client)
            print(f"{n_workers} workers: a = {1e3 * a:.1f} ms, b = {1e3 * b:.2f} ms")
            if not only:
                check(n_workers, a, b, c)
    t = per_task()
    print(f"t = {1e3 * t:.2f} ms")
    extrapolate(a, t, b, c)


if __name__ == "__main__":
    main()
