"""Read a user's own NumPy files, `.npz` and `.npy`. No code in a file is ever run."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from pyrovae.data.blocks import rows_at_once
from pyrovae.errors import InputError, cause, warn

SUFFIXES = (".npz", ".npy")

_SPLIT = ("x_train", "y_train", "x_test", "y_test", "class_names", "column_names")
_WHOLE = ("x", "y", "class_names", "column_names")
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_numpy_file(path: Path) -> dict[str, StoredArray]:
    """Find the arrays of a NumPy file. Their values are read later, in blocks of rows.

    Args:
        path: a `.npz` file with `x_train` and `x_test` (and `y_train`, `y_test`), or with `x` (and `y`),
            and perhaps with `class_names` and `column_names`; or a `.npy` file, whose array becomes `x`.

    Returns:
        The arrays by these names.

    Raises:
        InputError: the file is damaged, is no ordinary file, holds Python objects, lacks these names, has
            two arrays of one name, or holds more or less than it claims to.

    Warns:
        UserWarning: a `.npz` file holds other arrays, which are not read. The message names them.
    """
    if path.exists() and not path.is_file():  # reading a FIFO would wait forever
        raise InputError(f"{path} is not an ordinary file: give a file, or copy its content into one.")
    with _explained(path):
        if not _is_zip(path):
            return {"x": StoredArray(path)}
        with zipfile.ZipFile(path) as archive:
            members = _members(archive)
        keys = _SPLIT if {"x_train", "x_test"} <= members.keys() else _WHOLE
        arrays = {key: StoredArray(path, members[key]) for key in keys if key in members}
    if "x" not in arrays and "x_train" not in arrays:
        raise InputError(
            f"{path} holds the arrays {[*members]}: name them x_train and x_test (and y_train, y_test), "
            "or x (and y)."
        )
    if others := [name for name in members if name not in arrays]:
        warn(
            f"{path}: only {', '.join(arrays)} are read, and {', '.join(others)} are left out: rename the "
            "arrays if others are meant, and move a third split into x_train, of which training sets some "
            "apart."
        )
    return arrays


def _members(archive: zipfile.ZipFile) -> dict[str, str]:
    """Return the members of an archive by the names of their arrays.

    Raises:
        ValueError: two members have one name.
    """
    members: dict[str, str] = {}
    for member in archive.namelist():
        if (name := member.removesuffix(".npy")) in members:
            raise ValueError(f"it holds two arrays of the name {name}")
        members[name] = member
    return members


class StoredArray:
    """An array in a NumPy file, whose header has been read and whose values are read in blocks of rows.

    Args:
        path: the file.
        member: the name within a `.npz` file; empty for a `.npy` file.

    Attributes:
        shape: the array's shape.
        dtype: the type of its values.

    Raises:
        ValueError: the header is damaged, or claims more or fewer values than there are.
    """

    def __init__(self, path: Path, member: str = "") -> None:
        self.path, self.member = path, member
        with self._values() as (stream, size):
            held = size - stream.tell()
            needed = self.dtype.itemsize * int(np.prod(self.shape, dtype=object))
            if needed > held:
                raise ValueError(f"{member or path.name} claims {needed} bytes of values and holds {held}")
            if needed < held:  # as if several arrays had been saved one after the other
                raise ValueError(
                    f"{member or path.name} goes on for {held - needed} bytes after its values"
                )

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield consecutive rows, `(n, ...)`, until all N have been read.

        Raises:
            InputError: the file is damaged.
        """
        rows = len_of(self.shape) if self._by_columns else rows_at_once(self.shape)
        with _explained(self.path), self._values() as (stream, _):
            for start in range(0, len_of(self.shape), max(1, rows)):
                shape = (min(rows, len_of(self.shape) - start), *self.shape[1:])
                needed = self.dtype.itemsize * int(np.prod(shape, dtype=np.int64))
                content = stream.read(needed)
                if len(content) < needed:
                    raise ValueError("it ends too early")
                values = np.frombuffer(content, dtype=self.dtype)
                yield values.reshape(shape, order="F" if self._by_columns else "C")
            if self.member and stream.read(1):  # at its end the archive compares the checksum
                raise ValueError(f"{self.member} goes on after its values")

    @contextmanager
    def _values(self) -> Iterator[tuple[IO[bytes], int]]:
        """Open the array, read its header, and yield the stream of its values and the stream's size."""
        if not self.member:
            with open(self.path, "rb") as file:
                self._read_header(file)
                yield file, os.fstat(file.fileno()).st_size
            return
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as inner:
            self._read_header(inner)
            yield inner, archive.getinfo(self.member).file_size

    def _read_header(self, stream: Any) -> None:
        version = npy.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"it has the format {version} of structured arrays")
        self.shape, self._by_columns, self.dtype = _HEADERS[version](stream)
        if self.dtype.hasobject:
            raise ValueError("it holds Python objects")
        if min(self.shape, default=0) < 0:
            raise ValueError(f"its header claims the shape {self.shape}")


def len_of(shape: tuple[int, ...]) -> int:
    """Return the number of rows of an array of this shape; a single number counts as one."""
    return shape[0] if shape else 1


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # zip, zlib, header and memory failures have no common type
        raise InputError(
            f"{path} cannot be read: {cause(error)}. It is damaged, unreadable or holds Python "
            "objects; save plain arrays with numpy.savez or numpy.save."
        ) from None
