"""Checkpoints that are whole or absent: written aside and renamed, and named by a digest of their bytes.

A file is `epoch-00012-<sha256, 16 digits>.pt`. It holds tensors and plain values in torch's format and is
read with `weights_only=True`, so that loading runs no code. A file whose bytes do not match its name is
damaged.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import torch

from pyrovae.errors import CheckpointError, InputError
from pyrovae.storage import remove_partials, write_atomically

KEPT = 2
"""The number of checkpoints that stay in a folder."""

FIELDS = ("state", "best_state", "optimizer", "scheduler", "rng", "history", "settings")
"""The names of the values in a checkpoint."""


def save_checkpoint(folder: Path, epoch: int, content: dict[str, Any]) -> Path:
    """Write a checkpoint, then remove all but the newest two, and temporary files of crashes.

    Args:
        folder: the folder of the run's checkpoints.
        epoch: the number of finished epochs.
        content: a value for each of `FIELDS`.

    Returns:
        The path of the file.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    payload = buffer.getvalue()
    path = folder / f"epoch-{epoch:05d}-{_digest(payload)}.pt"
    write_atomically(path, payload)
    for replaced in folder.glob(f"epoch-{epoch:05d}-*.pt"):
        if replaced != path:
            replaced.unlink(missing_ok=True)
    for stale in _newest_first(folder)[KEPT:]:
        stale.unlink(missing_ok=True)
    remove_partials(folder)
    return path


def has_checkpoint(folder: Path) -> bool:
    """Return whether there is a checkpoint, sound or not."""
    return bool(_newest_first(folder))


def find_checkpoint(folder: Path | None, resume: bool) -> dict[str, Any] | None:
    """Return the newest checkpoint of a folder, or None. A missing folder is created.

    Args:
        folder: the folder; None means that the run writes no checkpoints.
        resume: whether the run continues from the checkpoint.

    Raises:
        InputError: there is a checkpoint, but `resume` is False.
        CheckpointError: all checkpoints are damaged.
    """
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    if not has_checkpoint(folder):
        return None
    if not resume:
        raise InputError(
            f"{folder} already holds checkpoints: pass resume=True to continue from them, or name "
            "another folder."
        )
    return load_checkpoint(folder)


def load_checkpoint(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read the newest sound checkpoint in `folder`. Damaged ones are skipped with a warning.

    Raises:
        CheckpointError: there are no checkpoints, or all are damaged.
    """
    paths = _newest_first(folder)
    if not paths:
        raise CheckpointError(f"no checkpoint in {folder}: train first, or name another folder.")
    refusals = []
    for path in paths:
        try:
            content = _read(path, device)
        except CheckpointError as error:
            refusals.append(str(error))
        else:
            for refusal in refusals:
                warnings.warn(f"{refusal} Using {path.name} instead.", stacklevel=2)
            return content
    raise CheckpointError(" ".join(refusals) + " There is no sound one to fall back on.")


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*.pt"), key=lambda path: path.name, reverse=True)


def _read(path: Path, device: torch.device | str) -> dict[str, Any]:
    payload = path.read_bytes()
    if not path.stem.endswith(_digest(payload)):
        raise CheckpointError(
            f"{path} is refused: its content does not match the digest in its name (truncated or altered)."
        )
    try:
        content = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    except Exception as error:  # torch raises its own, pickle's and zip's errors here
        raise CheckpointError(
            f"{path} is refused: it cannot be read as tensors and plain values alone, and nothing "
            f"else is loaded, since it could run code ({type(error).__name__})."
        ) from error
    if not isinstance(content, dict) or (missing := set(FIELDS) - content.keys()):
        lacks = (
            f"it lacks {', '.join(sorted(missing))}" if isinstance(content, dict) else "it is no dictionary"
        )
        raise CheckpointError(f"{path} is refused: it is not a checkpoint of a training run ({lacks}).")
    return content


def _digest(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()[:16]
