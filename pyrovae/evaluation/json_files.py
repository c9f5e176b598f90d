"""Results written to JSON files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pyrovae.storage import write_atomically


def write_json(path: str | Path, content: Any) -> None:
    """Write plain values to a JSON file, whole or not at all. Numbers that are not finite become null."""
    text = json.dumps(_without_nan(content), indent=1, allow_nan=False)
    write_atomically(Path(path), text.encode())


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
