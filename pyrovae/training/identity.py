"""The identity of a run: the settings and data that must not change when it is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyrovae.errors import CheckpointError, InputError
from pyrovae.objectives.objective import description
from pyrovae.training.batches import Minibatches
from pyrovae.training.settings import Settings
from pyrovae.training.sources import fingerprint


def identity_of(
    settings: Settings, data: Minibatches, validation: Minibatches | None, optimizer: Any, scheduler: Any
) -> dict[str, Any]:
    """Return the settings and digests of the data that must not change when a run is resumed.

    They are plain values by name. A digest of all data in memory takes a while, so call this once.
    """
    return {
        "batch_size": data.parts[-1].batch_size,
        "labelled_batch_size": data.parts[0].batch_size,
        "data_weights": [part.weight for part in data.parts],
        "seed": settings.seed,
        "clip_norm": settings.clip_norm,
        "data": data.source.fingerprint(),
        "classes": None if data.y is None else fingerprint(data.y),
        "validation": _fingerprints(validation),
        "objective": description(settings.bound),
        "scheduler": type(scheduler).__name__,
        "optimizer": type(optimizer).__name__,
    }


def check_same_run(
    saved: dict[str, Any], identity: dict[str, Any], epochs: int, folder: str | Path | None
) -> None:
    """Refuse a checkpoint that another run has written.

    Args:
        saved: the checkpoint.
        identity: the identity of this run, from `identity_of`.
        epochs: the total number of epochs of this run.
        folder: the checkpoint's folder, for messages.

    Raises:
        CheckpointError: a setting or the data differ from those at the beginning of the run.
        InputError: the checkpoint has more epochs than `epochs`.
    """
    for name, now in identity.items():
        if (begun := saved["settings"].get(name, now)) != now:  # older runs did not record the objective
            raise CheckpointError(
                f"the run in {folder} was begun with {name} = {begun}, "
                f"not {now}: resume it with the same {name} as at its beginning, or name another folder."
            )
    if (done := len(saved["history"]["rows"])) > epochs:
        raise InputError(
            f"the run in {folder} has {done} epochs already, and {epochs} are asked for "
            "in all: ask for more epochs, or name another folder."
        )


def _fingerprints(validation: Minibatches | None) -> list[str] | None:
    if validation is None:
        return None
    classes = [] if validation.y is None else [fingerprint(validation.y)]
    return [validation.source.fingerprint(), *classes]
