"""Readers of files: torchvision's data sets and a user's own, to plain arrays. None runs code."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pyrovae.errors import InputError

# The class in torchvision.datasets, and the folder that it reads below its root.
TORCHVISION = {
    "mnist": ("MNIST", "MNIST/raw"),
    "fashion-mnist": ("FashionMNIST", "FashionMNIST/raw"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
}
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}
_SHAPES = "(N, D), (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3"
_INSTEAD = "or use the embedded 'digits' or your own .npz, .npy or image folder"
_STALLED = 60.0  # seconds of silence after which a download is given up


def read_torchvision(name: str, root: Path, download: bool) -> dict[str, np.ndarray]:
    """The official train and test part of a named data set, images as `(N, C, H, W)`.

    Raises InputError: it is absent and may not be downloaded, or it cannot be read.
    """
    kind, folder = TORCHVISION[name]
    dataset = getattr(_torchvision_datasets(), kind)
    try:
        return _read_torchvision(dataset, root, folder)
    except Exception as error:  # torchvision lets through whatever it meets in a damaged file
        denied = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
        if denied or not download:
            raise InputError(
                f"{name} cannot be read from {root / folder}: {cause(error)}. Set PYROVAE_DATA "
                f"to a folder that holds {folder}, allow the download (download=True, or "
                f"--download), {_INSTEAD}."
            ) from None
        _download(name, dataset, root)
        return read_torchvision(name, root, download=False)


def _torchvision_datasets() -> Any:
    try:
        # Imported only here, since it fails beside a torch of another build.
        from torchvision import datasets  # type: ignore[import-untyped,unused-ignore]
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        raise InputError(
            f"torchvision cannot be imported: {cause(error)}. Install the build that matches torch "
            f"{torch.__version__} (pip install torch torchvision, both from the same place)."
        ) from None
    return datasets


def _read_torchvision(dataset: Any, root: Path, folder: str) -> dict[str, np.ndarray]:
    os.listdir(root / folder)  # torchvision calls a folder that it may not read "not found"
    # CIFAR-10 comes as pickles: torchvision opens them only if their published md5 sums match.
    parts = {"train": dataset(root, train=True), "test": dataset(root, train=False)}
    xs = {f"x_{k}": channels_first(np.asarray(part.data), k) for k, part in parts.items()}
    return xs | {f"y_{k}": np.asarray(part.targets) for k, part in parts.items()}


def _download(name: str, dataset: Any, root: Path) -> None:
    """Fetch beside the target, then move whole files: a failure leaves nothing half-written."""
    timeout = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(_STALLED)  # torchvision sets none and would wait forever
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as staging:
            dataset(staging, download=True)
            for file in sorted(Path(staging).rglob("*")):
                if file.is_file() and file.suffix != ".gz":
                    target = root / file.relative_to(staging)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(file, target)
    except Exception as error:  # network, disk, archive and md5 failures alike
        raise InputError(
            f"{name} could not be downloaded to {root}: {cause(error)}. Check the network and "
            f"the folder, set PYROVAE_DATA to a folder that holds {name}, {_INSTEAD}."
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)


def read_path(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npz`, a `.npy` or a folder of images, images as `(N, C, H, W)`.

    Raises InputError: another kind of file, a damaged one, or arrays that are no images or vectors.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.suffix.lower() not in {".npz", ".npy"}:
        raise InputError(
            f"{path} has the suffix {path.suffix!r}: give a .npz, a .npy or a folder of images."
        )
    arrays = _read_arrays(path)
    for key in arrays.keys() & {"x", "x_train", "x_test"}:
        arrays[key] = channels_first(arrays[key], f"{path}: {key}")
    return arrays


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    known = ("x_train", "y_train", "x_test", "y_test", "x", "y")
    try:
        with open(path, "rb") as handle:
            file = np.load(handle, allow_pickle=False)  # a file never runs code
            if isinstance(file, np.ndarray):
                return {"x": file}
            found = list(file)
            arrays = {key: file[key] for key in known if key in found}
    except Exception as error:  # zip, zlib, header and memory failures alike
        raise InputError(
            f"{path} cannot be read: {cause(error)}. It is damaged, unreadable or holds Python "
            "objects; save plain arrays with numpy.savez or numpy.save."
        ) from None
    if "x" not in arrays and not {"x_train", "x_test"} <= arrays.keys():
        raise InputError(
            f"{path} holds the arrays {found}: name them x_train and x_test (and y_train, y_test), "
            "or x (and y)."
        )
    return arrays


def _read_folder(folder: Path) -> dict[str, np.ndarray]:
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    classes = [p for p in entries if p.is_dir()]
    flat = _image_files(entries)
    if flat and classes:
        raise InputError(
            f"{folder} holds both images ({flat[0].name}) and folders ({classes[0].name}): put "
            "each image into a folder for its class, or all directly into one folder."
        )
    groups = [_image_files(sorted(c.iterdir())) for c in classes] or [flat]
    for place, files in zip(classes or [folder], groups, strict=True):
        if not files:
            raise InputError(
                f"{place} holds no images ({', '.join(sorted(_SUFFIXES))}): add some, or remove it."
            )
    x = _read_images([file for files in groups for file in files])
    y = np.repeat(np.arange(len(groups)), [len(files) for files in groups])
    return {"x": x, "y": y} if classes else {"x": x}


def _image_files(paths: list[Path]) -> list[Path]:
    return [p for p in paths if p.suffix.lower() in _SUFFIXES and not p.name.startswith(".")]


def _read_images(files: list[Path]) -> np.ndarray:
    images: list[np.ndarray] = []
    for file in files:
        images.append(_read_image(file))
        if images[-1].shape != images[0].shape:
            raise InputError(
                f"{file} is {_size(images[-1])}, but {files[0]} is {_size(images[0])}: "
                "bring all images to one size, all grey or all colour."
            )
    return np.stack(images)


def _size(image: np.ndarray) -> str:
    channels, height, width = image.shape
    return f"{width}x{height} {'grey' if channels == 1 else 'colour'}"


def _read_image(file: Path) -> np.ndarray:
    """(C, H, W) uint8."""
    try:
        with Image.open(file) as image:
            image.load()
            mode = image.mode
            alpha = np.asarray(image.convert("RGBA"))[..., 3] if image.has_transparency_data else 255
            clear = bool(np.min(alpha) < 255)
            pixels = np.asarray(image.convert("L" if mode in {"1", "L", "LA"} else "RGB"))
    except Exception as error:  # each of Pillow's decoders fails in its own way
        raise InputError(
            f"{file} cannot be read as an image: {cause(error)}. Replace or remove it."
        ) from None
    if clear or mode[0] in "IF":  # conversion would silently lose what such pixels hold
        problem = "has transparent pixels" if clear else f"has more than 8 bits a pixel ({mode})"
        raise InputError(f"{file} {problem}: save it as an opaque 8-bit grey or RGB image.")
    return np.moveaxis(np.atleast_3d(pixels), -1, 0)


def channels_first(array: np.ndarray, what: str) -> np.ndarray:
    """(N, D) or (N, C, H, W)."""
    if array.ndim == 3:
        return array[:, None]
    shape: tuple[int, ...] = array.shape
    first, last = (len(shape) == 4 and shape[axis] in {1, 3} for axis in (1, -1))
    if array.ndim != 2 and first == last:
        problem = "leaves open which axis is the channel" if first else "is not an image shape"
        raise InputError(f"{what} has shape {array.shape}, which {problem}: expected {_SHAPES}.")
    return np.moveaxis(array, -1, 1) if last else array


def cause(error: Exception) -> str:
    """What went wrong, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()).rstrip(".") or type(error).__name__
