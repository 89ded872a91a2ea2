"""Fits a file of 4 GB, each in a process that may have 1 GB of memory of its own.

    python benchmarks/memory_limit.py [--gigabytes 4] [--columns 250] [--limit 1000] [--only logistic]

The limit is the kernel's: ``RLIMIT_DATA``, all that a process allocates. A mapped file is not that, the
kernel can drop its pages at any time. Printed are the time of the fit and the most private memory that the
process has had, imports, compiled code, targets and predictions included.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

MODELS = {
    "least squares": "GDLinearRegressor()",
    "ridge": "GDLinearRegressor(alpha=1e-3)",
    "lasso": "GDLinearRegressor(alpha=0.05, l1_ratio=1.0)",
    "huber": "GDLinearRegressor(loss='huber')",
    "logistic": "GDLogisticClassifier(C=0.01)",
    "logistic, l1": "GDLogisticClassifier(C=1e-4, l1_ratio=1.0)",
    "multinomial": "GDLogisticClassifier(C=0.01)",
    "squared hinge": "GDSVC(loss='squared_hinge', C=1e-4)",
    "hinge": "GDSVC(C=1e-4)",
    "sgd": "GDLogisticClassifier(solver='sgd', max_iter=2)",
    "network": "GDMLPClassifier((20,), max_iter=1)",
}

CHILD = """
import resource, sys, threading, time, warnings
import numpy as np
path, make, kind, limit = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_DATA, (int(limit) * 1_000_000, -1))
from skbigmodel import *
from skbigmodel.sources import write_rows
warnings.simplefilter("ignore")

def own():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1000 for line in file if line.startswith("RssAnon"))

peak = [0.0]
def watch():
    while True:
        peak[0] = max(peak[0], own())
        time.sleep(0.005)

threading.Thread(target=watch, daemon=True).start()
X = np.load(path, mmap_mode="r")
rng = np.random.default_rng(1)
z = np.concatenate([X[k : k + 100_000, :5].sum(axis=1) for k in range(0, len(X), 100_000)])
z += 2 * rng.standard_normal(len(z), dtype=np.float32)
y = {"target": lambda: z, "sides": lambda: z > 0, "classes": lambda: np.digitize(z, [-1, 1])}[kind]()
del z
start = time.perf_counter()
model = eval(make).fit(X, y)
seconds = time.perf_counter() - start
write_rows(model.predict, X)
print(f"{seconds:8.1f} s   peak {peak[0]:6.0f} MB   {model.solver_ if hasattr(model, 'solver_') else ''}")
"""


def main():
    """Write the file, fit each model in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--columns", type=int, default=250)
    parser.add_argument("--limit", type=int, default=1000, help="MB")
    parser.add_argument("--only", default="", help="part of the name of a model")
    parser.add_argument("--folder", default=None, help="where the file is written")
    options = parser.parse_args()
    n_rows = int(options.gigabytes * 1e9 / (4 * options.columns))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = pathlib.Path(folder, "X.npy")
        X = np.lib.format.open_memmap(path, "w+", np.float32, (n_rows, options.columns))
        rng = np.random.default_rng(0)
        for start in range(0, n_rows, 100_000):
            part = X[start : start + 100_000]
            part[:] = rng.standard_normal(part.shape, dtype=np.float32)
        print(f"{X.nbytes / 1e9:.1f} GB of float32 in {n_rows:,} rows; at most {options.limit} MB")
        del X
        for name, make in MODELS.items():
            if options.only in name:
                kind = "target" if "Regressor" in make else "classes" if name == "multinomial" else "sides"
                command = [sys.executable, "-c", CHILD, str(path), make, kind, str(options.limit)]
                done = subprocess.run(command, capture_output=True, text=True)
                print(f"{name:16}", done.stdout.strip() or done.stderr.strip().splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
