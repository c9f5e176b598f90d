"""Small runs on digits, made by the command line."""

import shutil
from pathlib import Path

import pytest
from small_runs import train_by_words


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A VAE's run on digits, to be read only."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    train_by_words(folder)
    return folder


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory):
    """An autoencoder's run, to be read only."""
    folder = tmp_path_factory.mktemp("cli") / "autoencoder"
    train_by_words(folder, "autoencoder")
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the VAE's run that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def log(tmp_path_factory):
    """The output of commands in processes of their own."""
    return tmp_path_factory.mktemp("log") / "log"
