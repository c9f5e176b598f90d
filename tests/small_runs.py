"""Small runs on scikit-learn's digits, and the command line in this process."""

import contextlib
import io
import re
from pathlib import Path

from processes import finish

from pyrovae import recipes
from pyrovae.cli.app import run as run_words
from pyrovae.recipes import Data, Run, Training, load_recipe, options_of

PNG = b"\x89PNG"
WORDS = {"epochs": 1, "width": 8, "latent_dim": 2, "batch_size": 500, "vae_epochs": 1}
OPTIONS = {"width": 8, "latent_dim": 2, "vae_epochs": 2}


def pyrovae(*words) -> str:
    """Run a command in this process, and return what it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run_words([str(word) for word in words])
    return out.getvalue()


def small_words(model: str = "vae") -> list[str]:
    """The words that make a model and its training small, as far as the model has these options."""
    options = options_of(load_recipe(model))
    chosen = {name: value for name, value in WORDS.items() if name in options}
    words = [word for name, value in chosen.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [*words, "--device", "cpu", "--quiet"]


def train_by_words(folder: Path, model: str = "vae", *words) -> str:
    """Train a small model by the command line."""
    return pyrovae("train", model, "--out", folder, *small_words(model), *words)


def train_small(folder: Path, model: str = "vae", data=None, training=None, **options) -> Run:
    """Train a small model from Python, by default for 2 epochs."""
    known = options_of(load_recipe(model), options)
    return recipes.train(
        model,
        folder,
        options={name: value for name, value in OPTIONS.items() if name in known} | options,
        training=Training(**({"epochs": 2} | (training or {}))),
        data=Data(**(data or {})),
        device="cpu",
        progress=False,
    )


def files(folder: Path) -> dict[Path, bytes]:
    """The content of all files in a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(message: str, *words, log: Path, status: int = 1) -> None:
    """Run a command in a process of its own, which must refuse in one line."""
    result = finish(words, log)
    assert result.status == status, result
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    assert re.search(message, lines[0]), lines[0]
