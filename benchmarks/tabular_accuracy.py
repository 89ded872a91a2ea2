"""Errors of GDMLPClassifier(preset="tuned") and of scikit-learn's MLPClassifier on tables.

    python benchmarks/tabular_accuracy.py [FILE.csv ...] [--rows 3000] [--seeds 5] [--only PATTERN]

Each file is a table with the label in its last column; columns of text are categories. scikit-learn's digits
and breast cancer are always there. For each seed a table is cut at random, stratified by class, into training
rows (half of them, at most ``--rows``) and test rows (at most ``TESTED``). MLPClassifier gets standardised
numbers and one-hot categories. Prints, for each table, the mean error of both, the ratio of their sums over
the seeds, and the seconds of a fit for 1000 training rows; at the end the geometric mean of the ratios.
"""

import argparse
import fnmatch
import pathlib
import time
import warnings

import numpy as np
import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skbigmodel import GDMLPClassifier

TESTED = 20_000


def tables(files):
    """Name, features and labels of each table."""
    for load in (load_digits, load_breast_cancer):
        yield load.__name__.removeprefix("load_"), *load(return_X_y=True, as_frame=True)
    for file in map(pathlib.Path, files):
        frame = pd.read_csv(file)
        yield file.stem, frame.iloc[:, :-1], frame.iloc[:, -1]


def baseline(seed):
    """MLPClassifier as it is commonly used."""
    text = make_column_selector(dtype_exclude=np.number)
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = make_column_transformer((encoder, text), remainder=StandardScaler())
    return make_pipeline(columns, MLPClassifier(random_state=seed))


def compare(X, y, rows, seed):
    """(error, seconds) of either model for one cut of the table, and the number of training rows."""
    size = min(rows, len(X) // 2)
    X_train, X_test, y_train, y_test = train_test_split(X, y, train_size=size, random_state=seed, stratify=y)
    outcome = []
    for model in (GDMLPClassifier(preset="tuned", random_state=seed), baseline(seed)):
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(X_train, y_train)
        seconds = time.perf_counter() - start
        outcome.append((1.0 - model.score(X_test[:TESTED], y_test[:TESTED]), seconds))
    return np.array(outcome), size


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*")
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="*")
    arguments = parser.parse_args()
    print("| table | rows | columns | classes | tuned, % | MLP, % | ratio | s per 1000 rows | MLP, s |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    ratios = []
    for name, X, y in tables(arguments.files):
        if not fnmatch.fnmatch(name, arguments.only):
            continue
        outcomes = [compare(X, y, arguments.rows, seed) for seed in range(arguments.seeds)]
        size = outcomes[0][1]
        (error, seconds), (other, other_seconds) = np.mean([outcome for outcome, _ in outcomes], axis=0)
        ratios.append(error / other)
        print(
            f"| {name} | {size} | {X.shape[1]} | {y.nunique()} | {100 * error:.2f} | {100 * other:.2f} | "
            f"{ratios[-1]:.2f} | {1000 * seconds / size:.1f} | {1000 * other_seconds / size:.1f} |",
            flush=True,
        )
    print(f"\nGeometric mean of the ratios: {np.exp(np.mean(np.log(ratios))):.3f}; largest {max(ratios):.2f}")


if __name__ == "__main__":
    main()
