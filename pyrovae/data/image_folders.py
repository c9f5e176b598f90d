"""Read a user's own folder of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pyrovae.errors import InputError, cause

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}


def read_image_folder(folder: Path) -> dict[str, np.ndarray]:
    """Read the images of a folder, all of one size, all grey or all colour.

    Args:
        folder: a folder that holds either images, or a subfolder with images for each class. Classes are
            counted from 0 in the order of the subfolders' names.

    Returns:
        The images `x`, bytes `(N, C, H, W)` with C = 1 (grey) or 3 (colour); with subfolders also the
        classes `y`, `(N,)`.

    Raises:
        InputError: there are no images; images and subfolders are mixed; images differ in size or colour;
            or an image cannot be read, has transparent pixels or more than 8 bits for each channel.
    """
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    classes = [path for path in entries if path.is_dir()]
    flat = _image_files(entries)
    if flat and classes:
        raise InputError(
            f"{folder} holds both images ({flat[0].name}) and folders ({classes[0].name}): put "
            "each image into a folder for its class, or all directly into one folder."
        )
    groups = [_image_files(sorted(path.iterdir())) for path in classes] or [flat]
    for place, files in zip(classes or [folder], groups, strict=True):
        if not files:
            raise InputError(
                f"{place} holds no images ({', '.join(sorted(_SUFFIXES))}): add some, or remove it."
            )
    x = _read_images([file for files in groups for file in files])
    y = np.repeat(np.arange(len(groups)), [len(files) for files in groups])
    return {"x": x, "y": y} if classes else {"x": x}


def _image_files(paths: list[Path]) -> list[Path]:
    return [path for path in paths if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")]


def _read_images(files: list[Path]) -> np.ndarray:
    images: list[np.ndarray] = []
    for file in files:
        images.append(_read_image(file))
        if images[-1].shape != images[0].shape:
            raise InputError(
                f"{file} is {_in_words(images[-1])}, but {files[0]} is {_in_words(images[0])}: "
                "bring all images to one size, all grey or all colour."
            )
    return np.stack(images)


def _in_words(image: np.ndarray) -> str:
    channels, height, width = image.shape
    return f"{width}x{height} {'grey' if channels == 1 else 'colour'}"


def _read_image(file: Path) -> np.ndarray:
    """Read one image as bytes `(C, H, W)`."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.load()
            mode = image.mode
            alpha = np.asarray(image.convert("RGBA"))[..., 3] if image.has_transparency_data else 255
            transparent = bool(np.min(alpha) < 255)
            pixels = np.asarray(image.convert("L" if mode in {"1", "L", "LA"} else "RGB"))
    except Exception as error:  # Pillow's decoders raise many types of error
        raise InputError(
            f"{file} cannot be read as an image: {cause(error)}. Replace or remove it."
        ) from None
    if transparent or mode[0] in "IF":  # the conversion would silently lose part of such pixels
        problem = "has transparent pixels" if transparent else f"has more than 8 bits a pixel ({mode})"
        raise InputError(f"{file} {problem}: save it as an opaque 8-bit grey or RGB image.")
    return np.moveaxis(np.atleast_3d(pixels), -1, 0)
