"""A user's own recipes and components, named as `FILE.py:NAME`.

A file is executed only when the user names it in a command or a call, never because a run folder names it.
The run folder holds the SHA-256 of the file, so that a change is noticed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyrovae.errors import InputError


@dataclass(frozen=True)
class Own:
    """A user's own function or class, and the file that it comes from.

    Attributes:
        value: the function or class.
        path: the file.
        sha256: the digest of the file's bytes, in hexadecimal digits.
    """

    value: Callable[..., Any]
    path: Path
    sha256: str


def is_own(name: object) -> bool:
    """Whether a name has the form `FILE.py:NAME`."""
    return isinstance(name, str) and ".py:" in name


def digest_of(name: str) -> str:
    """Return the SHA-256 of the file in `FILE.py:NAME`.

    Raises:
        InputError: there is no such file.
    """
    return hashlib.sha256(_content(_path_of(name))).hexdigest()


def load_own(name: str) -> Own:
    """Execute a user's file and return a function or class from it.

    As for a script, the file's folder is put on `sys.path`, so that the file can import its neighbours. A
    file that has been executed in this process and has not changed is not executed again.

    Args:
        name: `"FILE.py:NAME"`.

    Raises:
        InputError: the file cannot be read, it fails when it is executed, or it has no function or class of
            that name.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("mine.py").write_text("def double(n): return 2 * n")
        >>> load_own("mine.py:double").value(4)
        8
    """
    path = _path_of(name)
    wanted = name.rpartition(":")[2]
    content = _content(path)
    digest = hashlib.sha256(content).hexdigest()
    module = _module(path, content, digest)
    value = getattr(module, wanted, None)
    if not callable(value):
        there = ", ".join(
            n for n, v in vars(module).items() if callable(v) and v.__module__ == module.__name__
        )
        raise InputError(
            f"{path} has no function or class {wanted!r}; it has {there or 'none'}. Correct the "
            f"name, or define {wanted}."
        )
    return Own(value, path, digest)


def _path_of(name: str) -> Path:
    return Path(name.rpartition(":")[0]).expanduser()


def _content(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a device may have no end
            raise InputError(f"{path} is not an ordinary file: give the path of your file.")
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}. Give the path of your file."
        ) from None


def _module(path: Path, content: bytes, digest: str) -> Any:
    name = f"_own_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}_{digest[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    sys.modules[name] = module  # before the execution, in which dataclasses look their module up
    try:
        exec(compile(content, str(path), "exec"), vars(module))
    except Exception as error:
        del sys.modules[name]
        line = traceback.extract_tb(error.__traceback__)[-1]
        at = f"{Path(line.filename).name}:{line.lineno}"
        if isinstance(error, SyntaxError):
            at = f"{Path(error.filename or path).name}:{error.lineno}"
        raise InputError(
            f"{path} fails when it is executed, at {at}: {type(error).__name__}: {error}."
        ) from error
    return module
