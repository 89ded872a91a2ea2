"""The shape of the package: layers that only know lower ones, one module for compilation, one door each."""

import ast
import pickle
from pathlib import Path

import numpy as np
import pytest
from numba.core.caching import FunctionCache, IndexDataCacheFile
from sklearn.base import clone

import skbigmodel
from skbigmodel import _jit, passes_linear

PACKAGE = Path(skbigmodel.__file__).parent
MODULES = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in PACKAGE.rglob("*.py")}
# what may be imported: a module's own layer and those before it
LAYERS = [
    {"_jit"},
    {"losses", "penalties", "activations", "optimizers", "kernels", "rows", "encoding"},
    {name for name in MODULES if name.startswith("passes_")},
    {"threads", "sums", "validation", "mapping", "reading", "blocks", "slices", "selection", "sources"}
    | {"cluster", "dask", "metrics", "gram", "objective", "softmax", "network"},
    {name for name in MODULES if name.startswith("solvers/")},
    {"_docs", "base"},
    {
        *("classification", "kernel_classifier", "linear", "multiclass"),
        *("network_data", "network_inputs", "network_presets", "network_training"),
    },
    {"linear_regression", "logistic_regression", "svm", "neural_network", "plotting"},
    {"__init__"},
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}


def imports(path):
    """(module, whether it is of this package) for every import, wherever in the file it stands."""
    folder = path.parent.relative_to(PACKAGE).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.name.split(".")[0] == "skbigmodel") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module, node.module.split(".")[0] == "skbigmodel"
        elif isinstance(node, ast.ImportFrom):
            base = [*folder[: len(folder) - node.level + 1], *(node.module or "").split(".")]
            base = "/".join(filter(None, base))
            for alias in node.names:
                if alias.name == "__version__":  # a string, not a layer
                    continue
                inside = "/".join(filter(None, [base, alias.name]))
                yield (
                    (
                        inside
                        if inside in MODULES
                        else base
                        if base in MODULES
                        else f"{base}/__init__".lstrip("/")
                    ),
                    True,
                )


@pytest.mark.parametrize("name", MODULES)
def test_layers(name):
    """Every module has a layer, and imports no higher one, not even inside a function."""
    assert name in LAYER, f"{name} is new: give it a layer here"
    for imported, inside in imports(MODULES[name]):
        if inside:
            assert imported in LAYER, f"{name} imports {imported}"
            assert LAYER[imported] <= LAYER[name], f"{name} imports {imported}, which is above it"


@pytest.mark.parametrize(
    "package, allowed",
    [
        ("numba", {"_jit"}),
        ("llvmlite", {"_jit"}),
        ("dask", {"dask"}),
        ("distributed", {"dask"}),
        ("matplotlib", {"plotting"}),
    ],
)
def test_heavy_packages_have_one_door(package, allowed):
    """Only the module named for it imports each of these."""
    users = {
        name
        for name, path in MODULES.items()
        if package in {found.split(".")[0] for found, inside in imports(path) if not inside}
    }
    assert users <= allowed


@pytest.mark.parametrize("name", [name for name in MODULES if LAYER.get(name, 9) < LAYER["base"]])
def test_engine_knows_no_estimators(name):
    """Below the shells nothing of scikit-learn is used but its input checks, in ``validation``."""
    if name != "validation":
        assert not [found for found, _ in imports(MODULES[name]) if found.split(".")[0] == "sklearn"]


def test_numba_still_has_what_the_cache_relies_on():
    """Private names that ``_jit`` uses: where Numba renames one, stale code could be run,
    so this must fail first.
    """
    cache = passes_linear.decision._cache
    assert isinstance(cache, _jit._PackageCache) and isinstance(cache, FunctionCache)
    assert isinstance(cache._cache_file, IndexDataCacheFile)
    assert cache._cache_file._source_stamp == _jit.SOURCE_STAMP
    # that stamp is what an index on disk is compared with, and what is written into it
    original = IndexDataCacheFile(".", "name", "stamp")
    assert original._source_stamp == "stamp"
    names = {
        *IndexDataCacheFile._load_index.__code__.co_names,
        *IndexDataCacheFile._save_index.__code__.co_names,
    }
    assert "_source_stamp" in names
    for hook in ("load_overload", "save_overload", "disable"):
        assert callable(getattr(FunctionCache, hook))


def test_stamp_covers_all_sources():
    """One digest of every file of the package."""
    assert _jit.SOURCE_STAMP == _jit._digest_of_sources() and len(_jit.SOURCE_STAMP) == 64


WITHOUT_NUMBA = """
import pickle, sys
import numpy as np
sys.modules["numba"] = None  # as where it is not installed
with open(sys.argv[1], "rb") as file:
    X, saved = pickle.load(file)
for data, expected in saved:
    model = pickle.loads(data)
    assert np.array_equal(model.predict(X), expected)
    if hasattr(model, "sparsify"):
        model.sparsify().predict(X)
    if hasattr(model, "predict_proba"):
        model.predict_proba(X), model.predict_log_proba(X)
heavy = {"skbigmodel.solvers", "skbigmodel.objective", "llvmlite", "dask", "matplotlib"}
assert not heavy & set(sys.modules)
"""


def test_models_load_and_predict_without_a_compiler(run_python, tmp_path):
    """Also those that keep a solver's state to go on from."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    noisy = X[:, 0] + rng.normal(size=60)
    three = np.digitize(noisy, [-0.5, 0.5])
    problems = [
        (skbigmodel.GDLinearRegressor(), noisy),
        (skbigmodel.GDLinearRegressor(loss="huber"), noisy),
        (skbigmodel.GDLinearRegressor(alpha=0.1, l1_ratio=1.0), noisy),
        (skbigmodel.GDLogisticClassifier(), noisy > 0),
        (skbigmodel.GDLogisticClassifier(), three),
        (skbigmodel.GDSVC(), noisy > 0),
        (skbigmodel.GDSVC(multi_class="ovo"), three),
        (skbigmodel.GDMLPClassifier(5, loss_threshold=100.0), noisy > 0),
    ]
    models = [
        clone(model).set_params(warm_start=warm_start).fit(X, y)
        for model, y in problems
        for warm_start in (False, True)
    ]
    path = tmp_path / "models.pickle"
    path.write_bytes(pickle.dumps((X, [(pickle.dumps(model), model.predict(X)) for model in models])))
    run_python(WITHOUT_NUMBA, path)
