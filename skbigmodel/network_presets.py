"""Presets of networks: parameters that take the place of defaults."""

from types import SimpleNamespace

import numpy as np

# RealMLP-TD-S of D. Holzmüller, L. Grinsztajn and I. Steinwart, "Better by default: strong pre-tuned MLPs and
# boosted trees on tabular data", NeurIPS (2024), with the dropout of their larger RealMLP-TD. Their rate is
# 0.04 and they decay no weights: on tables of some thousand rows both let networks overfit.
TUNED = {
    "hidden_layer_sizes": (256, 256, 256),
    "activation": "selu",
    "init": "ntp",
    "alpha": 0.0,
    "learning_rate_init": 0.02,
    "weight_decay": 0.03,
    "lr_schedule": "coslog4",
    "beta_2": 0.95,
    "label_smoothing": 0.1,
    "dropout": 0.15,
    "max_iter": 256,
    "early_stopping": True,
    "n_iter_no_change": np.inf,
}
BATCH = {None: 200, "tuned": 256}  # rows of batch_size="auto"
RATES = {"biases": 0.1, "scales": 6.0}  # times that of the weights
AVERAGED = {None: 0.0, "tuned": 0.08}  # share of the epochs over which parameters are averaged
FEWEST = 50  # rows of which some are held out unless that is asked for


def settings(estimator, defaults):
    """Parameters of an estimator by name, those of the preset where they have their defaults."""
    values = {name: getattr(estimator, name) for name in defaults}
    for name, value in TUNED.items():
        given, default = values[name], defaults[name]
        if type(given) is type(default) and given == default:
            values[name] = value
    return SimpleNamespace(**values)
