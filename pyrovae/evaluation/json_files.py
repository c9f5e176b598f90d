"""JSON files: written whole or not at all, and read with the types that are expected."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pyrovae.errors import InputError, cause
from pyrovae.storage import write_atomically

T = TypeVar("T")


def write_json(path: str | Path, content: Any) -> None:
    """Write plain values to a JSON file, whole or not at all. Numbers that are not finite become null."""
    text = json.dumps(_without_nan(content), indent=1, allow_nan=False)
    write_atomically(Path(path), text.encode())


def decoded(text: bytes, kind: type[T], path: Path, what: str) -> T:
    """Read JSON that a file holds.

    Args:
        text: the file's content.
        kind: the type of the result.
        path: the file, for messages.
        what: what the file is, for messages, such as "a run's configuration".

    Raises:
        InputError: it is no JSON, or a value has another type. The message names file and value.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as {what}: {cause(error)}. Restore it from a copy, or write it anew."
        ) from None


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
