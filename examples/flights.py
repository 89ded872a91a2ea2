"""Flights for ``out_of_core.py``: from a file, or made up; and the memory that a process uses."""

import os
import threading
import time

import numpy as np
import pandas as pd
import pyarrow.dataset

CHUNK = 50_000


def read(path, n_rows=None):
    """Frames of flights from a Parquet or CSV file."""
    source = pyarrow.dataset.dataset(path, format="csv" if path.endswith(".csv") else "parquet")
    batches = source.head(n_rows).to_batches(CHUNK) if n_rows else source.to_batches(batch_size=CHUNK)
    yield from (batch.to_pandas() for batch in batches)


def make_up(n_rows):
    """Frames of flights between 220 airports, some of which are busier and later than others."""
    airports, rng = np.array([f"A{k:03}" for k in range(220)]), np.random.default_rng(0)
    share, late, place = rng.dirichlet(np.full(220, 0.5)), rng.normal(0, 0.4, 220), rng.random((220, 2))
    for start in range(0, n_rows, CHUNK):
        n = min(CHUNK, n_rows - start)
        minutes = np.sort((start + rng.uniform(0, CHUNK, n)) * 180 * 1440 / n_rows).astype(int)
        origin, destination = rng.choice(220, (2, n), p=share)
        odds = late[origin] + late[destination] + 0.1 * (minutes // 60 % 24 - 14) + rng.logistic(size=n)
        yield pd.DataFrame(
            {
                "date": pd.Timestamp(2001, 1, 1) + pd.to_timedelta(minutes, unit="min"),
                "delay": np.where(odds > 1.5, 40, 0),
                "distance": (3000 * np.hypot(*(place[origin] - place[destination]).T)).round(),
                "origin": airports[origin],
                "destination": airports[destination],
            }
        )


class Memory(threading.Thread):
    """The most memory of its own, in MB, that the process has had; mapped files are not counted."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak = 0.0
        self.start()

    def run(self):
        """Look a hundred times a second, where there is something to look at (Linux)."""
        while os.path.exists("/proc/self/status"):
            with open("/proc/self/status") as file:
                own = next(int(line.split()[1]) / 1000 for line in file if line.startswith("RssAnon"))
            self.peak = max(self.peak, own)
            time.sleep(0.01)
