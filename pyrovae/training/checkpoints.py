"""Checkpoints that are whole or absent: written aside and renamed, and named by a digest of their bytes.

A file is `epoch-00012-<run, 8 digits>-<sha256, 16 digits>.pt`. It holds tensors and plain values in torch's
format and is read with `weights_only=True`, so that loading runs no code. A file whose bytes do not match
its name is damaged. A file with another kind of name is the user's, and is neither read nor touched.

The rows of the history are not in it, or each checkpoint would be larger than the one before. They are in
the file `history-<run>.jsonl` beside it, to which each epoch adds a line. A checkpoint says how many bytes
of that file are its own, with their digest.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from pyrovae.errors import CheckpointError, InputError, cause
from pyrovae.locks import check_still_writer
from pyrovae.storage import write_atomically
from pyrovae.training.history import Row, rows_in

KEPT = 2
"""The number of checkpoints of a run that stay in a folder."""

_NAME = re.compile(r"epoch-([0-9]{5,})-([0-9a-f]{8})-([0-9a-f]{16})\.pt")
_OF_VERSION_0_2 = re.compile(r"epoch-[0-9]{5}-[0-9a-f]{16}\.pt")
_TRIES = 20


class _State(msgspec.Struct):
    modules: dict[str, dict[str, Any]]
    parameters: dict[str, Tensor]
    buffers: dict[str, dict[str, Any]]


class _History(msgspec.Struct):
    epochs: int
    bytes: int
    digest: str
    best_epoch: int | None
    stopped_early: bool
    stopped_by_callback: bool
    precision_error: float | None = None


class _Trained(msgspec.Struct):
    frozen: list[str]
    later: list[str]


class _Content(msgspec.Struct):
    """The values in a checkpoint, and their types."""

    run: str
    state: _State
    best_state: _State | None
    optimizer: dict[str, Any]
    scheduler: dict[str, Any] | None
    rng: dict[str, Any]
    history: _History
    settings: dict[str, Any]
    trained: _Trained
    step: dict[str, Any] | None


@dataclass(frozen=True)
class CheckpointFile:
    """A file whose name is that of a checkpoint.

    Attributes:
        path: its path.
        epoch: the number of finished epochs.
        run: the run that wrote it.
        digest: the first digits of the SHA-256 of its bytes.
    """

    path: Path
    epoch: int
    run: str
    digest: str


def new_run() -> str:
    """Return a new run's name, by which its files are known: 8 hexadecimal digits."""
    return secrets.token_hex(4)


def history_path(folder: Path, run: str) -> Path:
    """Return the file with the rows of a run's history."""
    return folder / f"history-{run}.jsonl"


def save_checkpoint(folder: Path, epoch: int, content: dict[str, Any]) -> Path:
    """Write a checkpoint and read it back, then remove the run's older ones but for the one before.

    Args:
        folder: the folder of the run's checkpoints.
        epoch: the number of finished epochs.
        content: the values of a checkpoint, by name. `content["run"]` is the run.

    Returns:
        The path of the file.

    Raises:
        OSError: the file cannot be written, or does not hold what was written. All others stay then.
        CheckpointError: another process has taken over the folder.
    """
    check_still_writer(folder)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    payload, run = buffer.getvalue(), content["run"]
    path = folder / f"epoch-{epoch:05d}-{run}-{_digest(payload)}.pt"
    write_atomically(path, payload, mark=run)
    if path.read_bytes() != payload:
        raise OSError(None, "it does not hold what was written to it: check the disk", str(path))
    _remove_older(path)
    return path


def _remove_older(path: Path) -> None:
    """Remove the older checkpoints of a run but for the one before, now that this one has been read."""
    files = checkpoints_in(path.parent)
    kept = next(file for file in files if file.path == path)
    mine = [file for file in files if file.run == kept.run and file is not kept]
    older = [file for file in mine if file.epoch < kept.epoch]
    for file in [file for file in mine if file.epoch == kept.epoch] + older[KEPT - 1 :]:
        file.path.unlink(missing_ok=True)


def checkpoints_in(folder: Path) -> list[CheckpointFile]:
    """List the checkpoints of a folder, sound or not, those of the latest epochs first."""
    found = [(path, _NAME.fullmatch(path.name)) for path in (folder.iterdir() if folder.is_dir() else ())]
    files = [CheckpointFile(path, int(name[1]), name[2], name[3]) for path, name in found if name]
    return sorted(files, key=lambda file: (file.epoch, _modified(file.path), file.digest), reverse=True)


def find_checkpoint(folder: Path | None, resume: bool, run: str | None = None) -> dict[str, Any] | None:
    """Return the newest checkpoint of a folder that this process writes, or None.

    Args:
        folder: the folder, which exists; None means that the run writes no checkpoints.
        resume: whether the run continues from the checkpoint.
        run: the run's name; see `load_checkpoint`.

    Raises:
        InputError: there is a checkpoint, but `resume` is False.
        CheckpointError: all checkpoints are damaged, or an earlier version wrote them.
    """
    if folder is None or not (checkpoints_in(folder) or _former(folder)):
        return None
    if not resume:
        raise InputError(
            f"{folder} already holds checkpoints: pass resume=True to continue from them, or name "
            "another folder."
        )
    content = load_checkpoint(folder, run=run)
    _remove_older(folder / content["file"])  # which a crash may have left
    return content


def load_checkpoint(
    folder: Path,
    device: torch.device | str = "cpu",
    *,
    run: str | None = None,
    needs_history: bool = True,
) -> dict[str, Any]:
    """Read the newest sound checkpoint in a folder. Those that cannot be read are skipped with a warning.

    A training may go on in the folder meanwhile.

    Args:
        folder: the folder.
        device: the device of the tensors.
        run: the run's name. Checkpoints of other runs are skipped with a warning then, if there are some of
            this one. None means that the newest checkpoint tells which run it is.
        needs_history: whether a checkpoint is skipped if the rows of its history have been lost. If not,
            one without them is taken where all have lost them, with a warning.

    Returns:
        The values of the checkpoint by name. `history` has its rows, and `lines` the bytes that hold them;
        both are None if the rows have been lost. `epochs` is the number of finished epochs, and `file` the
        checkpoint's name.

    Raises:
        CheckpointError: there are no checkpoints, or none can be read.
    """
    for _ in range(_TRIES):
        files = checkpoints_in(folder)
        own = [file for file in files if file.run == run] or files
        content, refusals = _newest_sound(own, device, needs_history)
        if not refusals or files == checkpoints_in(folder):
            break  # else a training has replaced files while they were read
    if content is None:
        raise _none_found(folder, refusals)
    name = content["file"]
    taken = f"Using {name} {'without its history' if content['history'] is None else 'instead'}."
    later = files[: next(number for number, file in enumerate(files) if file.path.name == name)]
    refusals += [
        f"{file.path} is another run's checkpoint: move it to the run that wrote it."
        for file in later
        if file not in own
    ]
    for text in refusals:
        warnings.warn(f"{text} {taken}", stacklevel=2)
    return content


def _newest_sound(
    files: list[CheckpointFile], device: torch.device | str, needs_history: bool
) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the first checkpoint that can be read, and why those before it cannot."""
    refusals: list[str] = []
    without_history, known = None, 0
    for file in files:
        try:
            content = _read(file, device)
            try:
                return content | _history(file.path, content), refusals
            except CheckpointError:
                if without_history is None:
                    without_history, known = content | {"history": None, "lines": None}, len(refusals) + 1
                raise
        except CheckpointError as error:
            refusals.append(str(error))
    if needs_history or without_history is None:
        return None, refusals
    return without_history, refusals[:known]


def _none_found(folder: Path, refusals: list[str]) -> CheckpointError:
    if refusals:
        return CheckpointError(
            " ".join(refusals) + " There is no sound one to fall back on: restore what has been lost or "
            "altered, or train in another folder."
        )
    if _former(folder):
        return CheckpointError(
            f"the checkpoints in {folder} were written by pyrovae 0.2.0 or before, in a format that this "
            "version does not read: train again in another folder, or use that version."
        )
    return CheckpointError(f"no checkpoint in {folder}: train first, or name another folder.")


def _former(folder: Path) -> bool:
    return folder.is_dir() and any(_OF_VERSION_0_2.fullmatch(path.name) for path in folder.iterdir())


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _read(file: CheckpointFile, device: torch.device | str) -> dict[str, Any]:
    path = file.path
    payload = _bytes(path)
    if _digest(payload) != file.digest:
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
    try:
        msgspec.convert(content, _Content)
        if content["run"] != file.run:
            raise ValueError(f"run is {content['run']!r} in it, and {file.run!r} in its name")
    except (msgspec.MsgspecError, ValueError) as error:
        raise CheckpointError(
            f"{path} is refused: it is not a checkpoint of a training run ({cause(error)})."
        ) from error
    if (epochs := content["history"]["epochs"]) not in (0, file.epoch):
        raise CheckpointError(
            f"{path} is refused: it is of epoch {epochs}, and of epoch {file.epoch} by its name."
        )
    return content | {"file": path.name, "epochs": epochs}


def _history(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return the history that belongs to a checkpoint, with its rows, and the lines that hold them.

    Raises:
        CheckpointError: the file with the rows has been lost, or altered.
    """
    kept = content["history"]
    of_history = history_path(path.parent, content["run"])
    try:
        own = _bytes(of_history)[: max(0, kept["bytes"])]
        if len(own) != kept["bytes"] or hashlib.sha256(own).hexdigest() != kept["digest"]:
            raise ValueError("its first lines are not those of the checkpoint")
        rows: list[Row] = rows_in(own)
        if len(rows) != kept["epochs"]:
            raise ValueError(f"it has {len(rows)} epochs, and the checkpoint {kept['epochs']}")
    except (msgspec.MsgspecError, ValueError, CheckpointError) as error:
        raise CheckpointError(
            f"{path}: its history in {of_history.name} is not the one that it was written with "
            f"({cause(error)})."
        ) from error
    found = {"best_epoch", "stopped_early", "stopped_by_callback", "precision_error"}
    history = {"rows": rows} | {name: value for name, value in kept.items() if name in found}
    return {"history": history, "lines": own}


def _bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        CheckpointError: it cannot be read, or is no file.
    """
    try:
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CheckpointError(f"{path} is refused: it is not a file.")
            return file.read()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {cause(error)}.") from error


def _digest(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()[:16]
