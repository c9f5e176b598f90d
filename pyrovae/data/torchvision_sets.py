"""Read the data sets that torchvision knows, and download them if that is allowed."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyrovae.data.table import DATASETS
from pyrovae.errors import InputError, cause

_INSTEAD = "or use the embedded 'digits' or your own .npz, .npy or image folder"
_SILENCE = 60.0  # seconds without a byte, after which a download is given up


def read_torchvision(name: str, root: Path, download: bool) -> dict[str, np.ndarray]:
    """Read the official training and test part of a data set.

    Args:
        name: a data set of `DATASETS` that torchvision reads.
        root: the folder of all data sets.
        download: whether to download the data set if it is absent or damaged.

    Returns:
        `x_train` and `x_test`, bytes `(N, H, W)` or `(N, H, W, C)`; `y_train` and `y_test`, classes
        `(N,)`.

    Raises:
        InputError: torchvision cannot be imported; or the data set cannot be read, or cannot be downloaded.
    """
    row = DATASETS[name]
    dataset = getattr(_torchvision_datasets(name), row.torchvision)
    try:
        return _read_verified(root / row.folder, row.md5) if row.md5 else _read(dataset, root, row.folder)
    except Exception as error:  # a damaged file raises many types of error in torchvision
        denied = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
        if denied or not download:
            raise InputError(
                f"{name} cannot be read from {root / row.folder}: {cause(error)}. Set PYROVAE_DATA "
                f"to a folder that holds {row.folder}, allow the download (download=True, or "
                f"--download), {_INSTEAD}."
            ) from None
        _download(name, dataset, root)
        return read_torchvision(name, root, download=False)


def _torchvision_datasets(name: str) -> Any:
    if importlib.util.find_spec("torchvision") is None:
        raise InputError(
            f"{name} is read through torchvision, which is not installed: pip install 'pyrovae[images]', "
            f"{_INSTEAD}."
        )
    try:
        # Imported only when needed: the import fails where torchvision was built for another torch.
        return importlib.import_module("torchvision.datasets")
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        raise InputError(
            f"torchvision cannot be imported: {cause(error)}. Install the build that matches torch "
            f"{torch.__version__} (pip install torch torchvision, both from the same place)."
        ) from None


def _read(dataset: Any, root: Path, folder: str) -> dict[str, np.ndarray]:
    os.listdir(root / folder)  # torchvision reports a folder without read permission as "not found"
    # CIFAR-10 is stored in pickles. torchvision opens only those with the published md5 sums.
    parts = {"train": dataset(root, train=True), "test": dataset(root, train=False)}
    xs = {f"x_{key}": np.asarray(part.data) for key, part in parts.items()}
    return xs | {f"y_{key}": np.asarray(part.targets) for key, part in parts.items()}


def _read_verified(folder: Path, md5: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Read the four files of an MNIST, if they are the published ones.

    torchvision would verify no sums here, and would read `../processed`, of its old versions, instead.
    """
    mnist = importlib.import_module("torchvision.datasets.mnist")
    os.listdir(folder)
    for name, expected in md5.items():
        with open(folder / name, "rb") as file:
            digest = hashlib.file_digest(file, functools.partial(hashlib.md5, usedforsecurity=False))
        if digest.hexdigest() != expected:
            raise ValueError(f"{name} is damaged: it is not the published file, by its MD5 sum")
    found = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        found[f"x_{part}"] = mnist.read_image_file(str(folder / f"{prefix}-images-idx3-ubyte")).numpy()
        found[f"y_{part}"] = mnist.read_label_file(str(folder / f"{prefix}-labels-idx1-ubyte")).numpy()
    return found


def _download(name: str, dataset: Any, root: Path) -> None:
    """Download into a temporary folder, then move whole files: a failure leaves no partial file."""
    timeout = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(_SILENCE)  # torchvision sets no timeout and would wait forever
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as staging:
            dataset(staging, download=True)
            for file in sorted(Path(staging).rglob("*")):
                if file.is_file() and file.suffix != ".gz":
                    target = root / file.relative_to(staging)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(file, target)
    except Exception as error:  # network, disk, archive and md5 failures have no common type
        raise InputError(
            f"{name} could not be downloaded to {root}: {cause(error)}. Check the network and "
            f"the folder, set PYROVAE_DATA to a folder that holds {name}, {_INSTEAD}."
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)
