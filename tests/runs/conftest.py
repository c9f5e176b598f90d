"""A small VAE's run on digits, and copies of it."""

import shutil

import numpy as np
import pytest
from small_runs import train_small

from pyrovae.recipes import Run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run on digits, to be read only."""
    return train_small(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it that a test may change."""
    shutil.copytree(trained.folder, tmp_path / "run")
    return Run.open(tmp_path / "run")


@pytest.fixture
def vectors(tmp_path):
    """A file of 60 vectors."""
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32))
    return path
