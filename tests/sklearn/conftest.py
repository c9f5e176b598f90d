"""Small data, and estimators that are fitted once for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits, make_blobs

from pyrovae import SemiSupervisedVAEClassifier

Maker = Callable[..., SemiSupervisedVAEClassifier]
SMALL = {"latent_dim": 2, "width": 16, "batch_size": 50, "learning_rate": 0.01, "device": "cpu"}


@pytest.fixture(scope="session")
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Three clouds in four dimensions, in units of their own: X (90, 4), y (90,)."""
    X, y = make_blobs(90, 4, centers=3, cluster_std=0.5, random_state=0)
    return X * 10 + 100, y


@pytest.fixture(scope="session")
def few(blobs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The classes of every fifth datum, -1 for the others."""
    return np.where(np.arange(90) % 5 == 0, blobs[1], -1)


@pytest.fixture(scope="session")
def images() -> tuple[np.ndarray, np.ndarray]:
    """X (40, 64) in [0, 1] and two classes."""
    X, y = load_digits(n_class=2, return_X_y=True)
    return X[:40] / 16, y[:40]


@pytest.fixture(scope="session")
def quick() -> Maker:
    """Makes a small estimator, trained for two epochs."""

    def make(model: str = "pcvae", **options: Any) -> SemiSupervisedVAEClassifier:
        vae = {} if model == "m1" else {"vae_epochs": 2}
        given = {"epochs": 2, "random_state": 0} | vae | SMALL | options
        return SemiSupervisedVAEClassifier(model, **given)

    return make


@pytest.fixture(scope="session")
def learner(quick: Maker) -> Maker:
    """Makes a small estimator that is trained for long enough to learn the blobs."""

    def make(model: str, **options: Any) -> SemiSupervisedVAEClassifier:
        vae = {} if model == "m1" else {"vae_epochs": 15}
        fast = {"epochs": 30, "neighbours": 10, "batch_size": 20, "learning_rate": 0.02}
        return quick(model, **(fast | vae | options))

    return make


@pytest.fixture(scope="session")
def learned(learner: Maker, blobs: tuple[np.ndarray, np.ndarray], few: np.ndarray) -> Maker:
    """Gives a model's estimator that has learned the blobs from few labels. Do not change it."""
    kept: dict[str, SemiSupervisedVAEClassifier] = {}

    def fitted(model: str) -> SemiSupervisedVAEClassifier:
        if model not in kept:
            kept[model] = learner(model).fit(blobs[0], few)
        return kept[model]

    return fitted


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Eight threads."""
    with ThreadPoolExecutor(8) as pool:
        yield pool
