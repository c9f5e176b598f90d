"""Read a user's own folder of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyrovae.compute.memory import check_fits
from pyrovae.errors import InputError, cause, warn

_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""Pillow's names of the formats with these suffixes. It tries no others: PostScript, for one, is run."""

_OTHER_IMAGES = {".heic", ".heif", ".svg", ".dcm", ".raw"}  # that Pillow does not know

_PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_OTHER_PARTS = {"val", "valid", "validation", "dev"}


def read_image_folder(folder: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Read the images of a folder, all of one size, all grey or all colour.

    Args:
        folder: a folder that holds either images, or a subfolder with images for each class, or two
            folders `train` and `test` that hold one of these. Images may lie in folders within. Classes are
            counted from 0 in the order of the subfolders' names; if all are whole numbers, by these.

    Returns:
        The images `x`, or `x_train` and `x_test`, bytes `(N, C, H, W)` with C = 1 (grey) or 3 (colour);
        with subfolders also the classes `y`, or `y_train` and `y_test`, `(N,)`. Then the names of the
        classes.

    Raises:
        InputError: there are no images; images and subfolders are mixed; `train` or `test` stands beside
            other folders that may be parts; a class of `test` is not in `train`; images differ in size or
            colour; or an image cannot be read, has transparent pixels, several pages, or more than 8 bits
            for each channel.

    Warns:
        UserWarning: images of other formats are left out. The message says how many.
    """
    parts = _parts_of(folder)
    classes = {part: _classes_of(place) for part, place in parts.items()}
    if len({bool(found) for found in classes.values()}) > 1:
        raise InputError(f"one of {folder}/train and test has folders for classes: give both, or none.")
    names = [*classes.get("train", classes.get("", {}))]
    if unseen := [name for found in classes.values() for name in found if name not in names]:
        raise InputError(
            f"{folder}/test holds the class {unseen[0]}, and train does not: add images of it to train, or "
            "remove it from test."
        )
    files, arrays = {}, {}
    for part, place in parts.items():
        groups = [
            (label, _images_in(classes[part][name]))
            for label, name in enumerate(names)
            if name in classes[part]
        ] or [(0, _images_in(place))]
        files[part] = [file for _, group in groups for file in group]
        if names:
            labels, sizes = [label for label, _ in groups], [len(group) for _, group in groups]
            arrays[f"y_{part}".rstrip("_")] = np.repeat(labels, sizes)
    first = _read_image(next(iter(files.values()))[0])
    for part, paths in files.items():
        arrays[f"x_{part}".rstrip("_")] = _read_images(paths, first, next(iter(files.values()))[0])
    return arrays, tuple(names)


def _entries(folder: Path) -> list[Path]:
    """Return the visible entries by name. Paths are ordered in another way on another system."""
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(visible, key=lambda path: path.name)


def _parts_of(folder: Path) -> dict[str, Path]:
    """Return the folders `train` and `test`, or the folder itself by the name ""."""
    found = [path for path in _entries(folder) if path.is_dir()]
    named = [path for path in found if path.name.lower() in {*_PARTS, *_OTHER_PARTS}]
    if len(named) < 2:  # one alone is a class: a locomotive with carriages
        return {"": folder}
    parts = {_PARTS.get(path.name.lower(), path.name): path for path in named}
    if len(found) != 2 or {*parts} != {"train", "test"}:
        raise InputError(
            f"{folder} holds the folders {', '.join(path.name for path in found)}: expected a folder for "
            "each class, or two folders train and test. Move validation images into train, of which "
            "training sets some apart."
        )
    return {part: parts[part] for part in ("train", "test")}


def _classes_of(folder: Path) -> dict[str, Path]:
    """Return the class folders by name, in the order of the classes."""
    entries = _entries(folder)
    classes = [path for path in entries if path.is_dir()]
    flat = [path for path in entries if path.suffix.lower() in _SUFFIXES and not path.is_dir()]
    if flat and classes:
        raise InputError(
            f"{folder} holds both images ({flat[0].name}) and folders ({classes[0].name}): put "
            "each image into a folder for its class, or all directly into one folder."
        )
    if all(path.name.isdecimal() for path in classes):
        classes.sort(key=lambda path: (int(path.name), path.name))
    return {path.name: path for path in classes}


def _images_in(folder: Path) -> list[Path]:
    """Return the images in a folder and in the folders within, by name.

    Raises:
        InputError: there are none, or one is not an ordinary file.
    """
    files = [*_files_below(folder, (folder.resolve(),))]
    images = [file for file in files if file.suffix.lower() in _SUFFIXES]
    if not images:
        raise InputError(f"{folder} holds no images ({', '.join(_SUFFIXES)}): add some, or remove it.")
    if left_out := Counter(f.suffix.lower() for f in files if _is_other_image(f.suffix.lower())):
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(left_out.items()))
        warn(
            f"{folder}: images of other formats are left out ({kinds}): convert them to one of "
            f"{', '.join(_SUFFIXES)} to have them read."
        )
    for image in images:
        if image.exists() and not image.is_file():  # reading a FIFO would wait forever
            raise InputError(f"{image} is not an ordinary file: replace or remove it.")
    return images


def _files_below(folder: Path, above: Sequence[Path]) -> Iterator[Path]:
    for path in _entries(folder):
        if not path.is_dir():
            yield path
        elif (real := path.resolve()) not in above:  # a link to a folder above would go round in circles
            yield from _files_below(path, (*above, real))


def _is_other_image(suffix: str) -> bool:
    from PIL import Image

    return suffix not in _SUFFIXES and (suffix in _OTHER_IMAGES or suffix in Image.registered_extensions())


def _read_images(files: list[Path], first: np.ndarray, first_file: Path) -> np.ndarray:
    # The data will be floats, four times as many bytes.
    check_fits(5 * len(files) * first.nbytes, f"{len(files)} images", "give fewer or smaller images")
    images = np.empty((len(files), *first.shape), dtype=np.uint8)
    for number, file in enumerate(files):
        image = _read_image(file)
        if image.shape != first.shape:
            raise InputError(
                f"{file} is {_in_words(image)}, but {first_file} is {_in_words(first)}: "
                "bring all images to one size, all grey or all colour."
            )
        images[number] = image
    return images


def _in_words(image: np.ndarray) -> str:
    channels, height, width = image.shape
    return f"{width}x{height} {'grey' if channels == 1 else 'colour'}"


def _read_image(file: Path) -> np.ndarray:
    """Read one image as bytes `(C, H, W)`, upright by its EXIF orientation."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file, formats=_FORMATS) as image:
            problem = _problem_with(image)
            image.load()
            upright = ImageOps.exif_transpose(image)
            mode = upright.mode
            alpha = np.asarray(upright.convert("RGBA"))[..., 3] if upright.has_transparency_data else 255
            pixels = np.asarray(upright.convert("L" if mode in {"1", "L", "LA"} else "RGB"))
    except Exception as error:  # Pillow's decoders raise many types of error
        raise InputError(
            f"{file} cannot be read as an image: {cause(error)}. Replace or remove it."
        ) from None
    problem = "has transparent pixels" if bool(np.min(alpha) < 255) else problem
    if problem:  # the conversion would silently lose part of such pixels
        raise InputError(f"{file} {problem}: save it as an opaque 8-bit grey or RGB image.")
    return np.moveaxis(np.atleast_3d(pixels), -1, 0)


def _problem_with(image: Any) -> str:
    """Return what an image holds that 8-bit grey or colour cannot say, or nothing."""
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # in MPO, a camera's previews
        return f"has {image.n_frames} pages, of which one can be read"
    # Pillow reads colours of 16 bits as 8. What it decodes says how many there are.
    decoded = [tile[3] for tile in image.tile]
    most = max(
        (
            n
            for args in decoded
            if image.format == "PPM" and isinstance(args, tuple)
            for n in args
            if isinstance(n, int)
        ),
        default=0,
    )
    if image.mode[0] in "IF" or most > 255 or any(";16" in str(args) for args in decoded):
        return f"has more than 8 bits a pixel ({image.mode})"
    return ""
