"""Read a user's own folder of images."""

from __future__ import annotations

import os
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


def read_image_folder(folder: Path, to_train: bool = True) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Read the images of a folder, all of one size, all grey or all colour.

    Args:
        folder: a folder that holds either images, or a subfolder with images for each class, or two
            folders `train` and `test` that hold one of these. Images may lie in folders within. Classes are
            counted from 0 in the order of the subfolders' names; if all are whole numbers, by these. Hidden
            folders, and the folders `__MACOSX` of archives, are left out.
        to_train: whether a model is to be trained on the images, for which one class is none.

    Returns:
        The images `x`, or `x_train` and `x_test`, bytes `(N, C, H, W)` with C = 1 (grey) or 3 (colour);
        with subfolders also the classes `y`, or `y_train` and `y_test`, `(N,)`. Then the names of the
        classes.

    Raises:
        InputError: there are no images; images and subfolders are mixed; a subfolder stands alone; `train`
            or `test` stands beside other folders that may be parts; a class of `test` is not in `train`; a
            link puts one image into two classes or parts; images differ in size or colour; or an image
            cannot be read, has transparent pixels, several pages, or more than 8 bits for each channel.

    Warns:
        UserWarning: images of other formats, or in hidden folders, are left out. The message says how many.
    """
    parts = _parts_of(folder)
    classes = {part: _classes_of(place) for part, place in parts.items()}
    for part, place in parts.items():
        _check_not_alone(place, classes[part], bool(part), to_train)
    if len({bool(found) for found in classes.values()}) > 1:
        raise InputError(f"one of {folder}/train and test has folders for classes: give both, or none.")
    names = [*classes.get("train", classes.get("", {}))]
    if unseen := [name for found in classes.values() for name in found if name not in names]:
        raise InputError(
            f"{folder}/test holds the class {unseen[0]}, and train does not: add images of it to train, or "
            "remove it from test."
        )
    files, arrays = {}, {}
    seen: dict[Path, Path] = {}
    for part, place in parts.items():
        groups = [
            (label, _images_in(classes[part][name], seen))
            for label, name in enumerate(names)
            if name in classes[part]
        ] or [(0, _images_in(place, seen))]
        files[part] = [file for _, group in groups for file in group]
        if names:
            labels, sizes = [label for label, _ in groups], [len(group) for _, group in groups]
            arrays[f"y_{part}".rstrip("_")] = np.repeat(labels, sizes)
    first = _read_image(next(iter(files.values()))[0])
    for part, paths in files.items():
        arrays[f"x_{part}".rstrip("_")] = _read_images(paths, first, next(iter(files.values()))[0])
    _warn_of_hidden_images(folder)
    return arrays, tuple(names)


def _entries(folder: Path) -> list[Path]:
    """Return the visible entries by name. Paths are ordered in another way on another system."""
    visible = (path for path in folder.iterdir() if not _is_hidden(path.name))
    return sorted(visible, key=lambda path: path.name)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in _SUFFIXES


def _warn_of_hidden_images(folder: Path) -> None:
    """Say how many images lie in hidden folders."""
    count = 0
    places: list[str] = []
    for place, folders, _ in os.walk(folder):
        for name in filter(_is_hidden, folders):
            below = [file for _, _, files in os.walk(Path(place, name)) for file in files]
            if images := sum(_is_image(file) and not _is_hidden(file) for file in below):
                count, places = count + images, [*places, str(Path(place, name).relative_to(folder))]
        folders[:] = [name for name in folders if not _is_hidden(name)]
    if count:
        warn(
            f"{folder}: {count} images in hidden folders are left out ({', '.join(sorted(places))}): "
            "rename these folders to have them read."
        )


def _parts_of(folder: Path) -> dict[str, Path]:
    """Return the folders `train` and `test`, or the folder itself by the name ""."""
    found = [path for path in _entries(folder) if path.is_dir()]
    named = [path for path in found if path.name.lower() in {*_PARTS, *_OTHER_PARTS}]
    if len(named) < 2:  # one alone is a class: a locomotive with carriages
        return {"": folder}
    parts = {_PARTS.get(path.name.lower(), path.name): path for path in named}
    _check_not_mixed(folder, found)
    if len(found) != 2 or {*parts} != {"train", "test"}:
        raise InputError(
            f"{folder} holds the folders {', '.join(path.name for path in found)}: expected a folder for "
            "each class, or two folders train and test. Move validation images into train, of which "
            "training sets some apart."
        )
    return {part: parts[part] for part in ("train", "test")}


def _classes_of(folder: Path) -> dict[str, Path]:
    """Return the class folders by name, in the order of the classes."""
    classes = [path for path in _entries(folder) if path.is_dir()]
    _check_not_mixed(folder, classes)
    if all(path.name.isdecimal() for path in classes):
        classes.sort(key=lambda path: (int(path.name), path.name))
    # A name may hold bytes that are no text, which no other file could take.
    return {os.fsencode(path.name).decode(errors="backslashreplace"): path for path in classes}


def _check_not_mixed(folder: Path, folders: Sequence[Path]) -> None:
    flat = [path for path in _entries(folder) if _is_image(path.name) and not path.is_dir()]
    if flat and folders:
        raise InputError(
            f"{folder} holds both images ({flat[0].name}) and folders ({folders[0].name}): put "
            "each image into a folder for its class, or all directly into one folder."
        )


def _check_not_alone(folder: Path, classes: dict[str, Path], is_part: bool, to_train: bool) -> None:
    """Refuse a class that is the only one, where it is no class but the folder that was meant."""
    if len(classes) != 1:
        return
    ((name, only),) = classes.items()
    within = _entries(only)
    around = any(path.is_dir() for path in within) and not any(_is_image(path.name) for path in within)
    if not around and (is_part or not to_train):
        return
    remedy = f"move what {only} holds into {folder}" if is_part else f"name {only} instead"
    if name.lower() in _PARTS and not is_part:
        remedy += ", or put train and test beside each other for a split of your own"
    raise InputError(f"{folder} holds no folder but {name}, which would be the only class: {remedy}.")


def _images_in(folder: Path, seen: dict[Path, Path]) -> list[Path]:
    """Return the images in a folder and in the folders within, by name. Each is read once.

    Args:
        folder: the folder of a class, or of all images.
        seen: the folder in which each image was found before, by the image's path without links. It is
            filled.

    Raises:
        InputError: there are none, one is not an ordinary file, or one was found in another folder.
    """
    files = [*_files_below(folder, (folder.resolve(),))]
    images = []
    for file, real in files:
        if not _is_image(file.name):
            continue
        if real not in seen:
            seen[real] = folder
            images.append(file)
        elif seen[real] != folder:
            raise InputError(
                f"{file} and an image in {seen[real]} are one file, by a link, and one image cannot be in "
                "two classes or parts: remove the link."
            )
    if not images:
        raise InputError(f"{folder} holds no images ({', '.join(_SUFFIXES)}): add some, or remove it.")
    suffixes = (file.suffix.lower() for file, _ in files)
    if left_out := Counter(suffix for suffix in suffixes if _is_other_image(suffix)):
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(left_out.items()))
        warn(
            f"{folder}: images of other formats are left out ({kinds}): convert them to one of "
            f"{', '.join(_SUFFIXES)} to have them read."
        )
    for image in images:
        if image.exists() and not image.is_file():  # reading a FIFO would wait forever
            raise InputError(f"{image} is not an ordinary file: replace or remove it.")
    return images


def _files_below(folder: Path, above: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Yield the files in a folder and in those within, each with its path without links."""
    for path in _entries(folder):
        if not path.is_dir():
            yield path, path.resolve() if path.is_symlink() else above[-1] / path.name
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
