"""The identity of a run: what was asked for, by which a resumed run is compared with its beginning."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pyrovae.data.digests import fingerprint
from pyrovae.errors import CheckpointError, InputError, warn
from pyrovae.objectives.objective import description, weights_of
from pyrovae.programs.given import Given
from pyrovae.schedules import Constant, Schedule
from pyrovae.training.batches import Minibatches
from pyrovae.training.plain import described, plain, same
from pyrovae.training.settings import Settings, moments

MAY_CHANGE = ("learning_rate", "scheduler", "beta", "weights", "objective's weights", "frozen")
"""What a resumed run may have otherwise. It is used from then on, and a warning says so."""

_OF_THE_MACHINE = {"params", "lr", "initial_lr", "fused", "foreach", "capturable", "differentiable"}
_RATES = {"base_lrs", "_last_lr"}


def identity_of(settings: Settings, data: Minibatches, validation: Minibatches | None) -> dict[str, Any]:
    """Return the settings and digests of the data that a resumed run is compared by.

    They are plain values by name. A digest of all data in memory takes a while, so call this once.
    """
    return (
        dict(settings.identity or {})
        | _given_rate(settings)
        | {
            "batch_size": data.parts[-1].batch_size,
            "labelled_batch_size": data.parts[0].batch_size,
            "data_weights": [part.weight for part in data.parts],
            "seed": settings.seed,
            "clip_norm": settings.clip_norm,
            "precision": settings.precision,
            "data": data.source.fingerprint(),
            "classes": None if data.y is None else fingerprint(data.y),
            "given": _of_given(data.given),
            "validation": _fingerprints(validation),
            "objective": description(settings.bound),
            "objective's weights": weights_of(settings.bound),
            "beta": _values(settings.beta_schedule, settings.epochs),
            "weights": {s: _values(w, settings.epochs) for s, w in settings.weight_schedules.items()},
        }
    )


def _given_rate(settings: Settings) -> dict[str, list[float]]:
    """Return the given learning rate over time; a constant one as an optimiser's own rate is written."""
    rate = settings.rate_schedule
    if rate is None:
        return {}
    return {"learning_rate": [rate.value] if isinstance(rate, Constant) else _values(rate, settings.epochs)}


def optimizer_identity(optimizer: Any) -> dict[str, Any]:
    """Return the type and the settings of an optimiser, as it was made, before a scheduler changes them."""
    groups = [plain(group) for group in optimizer.param_groups]
    settings = {
        f"optimizer's {name}" + (f" in group {number}" if len(groups) > 1 else ""): described(value)
        for number, group in enumerate(groups)
        for name, value in group.items()
        if name not in _OF_THE_MACHINE
    }
    rates = [float(group["lr"]) for group in groups if "lr" in group]
    kind = type(optimizer).__name__
    return {"optimizer": kind, "groups of parameters": len(groups), **settings, "learning_rate": rates}


def scheduler_identity(scheduler: Any, optimizer: Any) -> dict[str, Any]:
    """Return the type and the settings of a scheduler as it was made, and the rates that it has set."""
    if scheduler is None:
        return {"scheduler": None, "rates": None}
    of_state = scheduler.state_dict() if hasattr(scheduler, "state_dict") else {}
    kept = {**of_state, "lr_lambdas": getattr(scheduler, "lr_lambdas", None)}
    groups = [
        {name: described(value) for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    rates = {name: described(kept[name]) for name in _RATES & kept.keys()}
    return {
        "scheduler": [type(scheduler).__name__, _without_rates(described(kept))],
        "rates": {"groups": groups, **rates},
    }


def check_same_run(
    saved: dict[str, Any], identity: dict[str, Any], epochs: int, folder: str | Path | None
) -> list[str]:
    """Compare a checkpoint with what is asked for now.

    Args:
        saved: the checkpoint.
        identity: the identity of this run.
        epochs: the total number of epochs of this run.
        folder: the checkpoint's folder, for messages.

    Returns:
        The names of the settings that have changed and are used from now on.

    Raises:
        CheckpointError: a setting or the data differ from those at the beginning of the run.
        InputError: the checkpoint has more epochs than `epochs`.

    Warns:
        UserWarning: settings that may change have changed. The message names them.
    """
    begun = saved["settings"]
    if (name := first_difference(begun, identity)) is not None:
        raise CheckpointError(
            f"the run in {folder} was begun with {name} = {_shown(begun[name])}, "
            f"not {_shown(identity[name])}{_hint(begun[name], identity[name])}: resume it with "
            f"the same {name} as at its beginning, or name another folder."
        )
    if (done := len(saved["history"]["rows"])) > epochs:
        raise InputError(
            f"the run in {folder} has {done} epochs already, and {epochs} are asked for "
            "in all: ask for more epochs, or name another folder."
        )
    changed = [name for name in MAY_CHANGE if not _agree(name, begun, identity)]
    if changed:
        lines = [f"{name} {_change(begun[name], identity[name])}" for name in changed]
        warn(
            f"the run in {folder} goes on after epoch {done} with other settings than those of its "
            f"beginning: {'; '.join(lines)}."
        )
    return changed


def first_difference(begun: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return the name of the first setting that a run must keep and that differs, or None.

    Settings that only one of the two has are not compared: another version of torch may have optimisers
    with further settings.
    """
    for name in now:
        if name not in (*MAY_CHANGE, "rates") and name in begun and not same(begun[name], now[name]):
            return name
    return None


def _agree(name: str, begun: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    if name == "scheduler" and same(begun["learning_rate"], now["learning_rate"]):
        return same([begun[name], begun["rates"]], [now[name], now["rates"]])
    if name in ("beta", "learning_rate"):
        return _common(begun[name], now[name])
    if name == "weights":
        sites = begun[name].keys()
        return sites == now[name].keys() and all(_common(begun[name][s], now[name][s]) for s in sites)
    return same(begun[name], now[name])


def _common(begun: list[float], now: list[float]) -> bool:
    """Whether two schedules agree as far as both are known; one run may have more epochs.

    A constant learning rate is a single number.
    """
    if len(begun) == 1 or len(now) == 1:
        return begun == now
    return all(a == b for a, b in zip(begun, now, strict=False))


def _values(schedule: Schedule, epochs: int) -> list[float]:
    return [float(schedule(time)) for time in moments(epochs)]


def _without_rates(kept: Any) -> Any:
    if isinstance(kept, dict):
        return {name: _without_rates(value) for name, value in kept.items() if name not in _RATES}
    return [_without_rates(value) for value in kept] if isinstance(kept, list) else kept


def _shown(value: Any) -> str:
    """Return a setting for a message: the values that tell it from another, not all of its inner parts."""
    if isinstance(value, list) and len(value) > 1 and isinstance(value[1], list | dict):
        inner = value[1] if isinstance(value[1], dict) else {}
        numbers = ", ".join(f"{n}={v}" for n, v in inner.items() if isinstance(v, int | float) and v)
        return f"{value[0]}({numbers})" if numbers else str(value[0])
    if isinstance(value, list) and len(value) == 1:
        return str(value[0])
    if isinstance(value, Collection) and len(text := str(value)) > 80:
        return text[:77] + "..."
    return str(value)


def _change(begun: Any, now: Any) -> str:
    """Return a setting of the beginning and of now for a message, schedules by where they begin and end."""
    if isinstance(begun, dict) and begun.keys() == now.keys():
        changes = {name: _change(value, now[name]) for name, value in begun.items() if value != now[name]}
        return ", ".join(f"of {name!r} {change}" for name, change in changes.items())
    shown = [_course(v) if _is_schedule(v) else _shown(v) for v in (begun, now)]
    same_ends = " (by another course)" if shown[0] == shown[1] else ""
    return f"{shown[0]} -> {shown[1]}{same_ends}"


def _is_schedule(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(each, float) for each in value)


def _course(values: list[float]) -> str:
    """Return the values of a schedule over the epochs in words."""
    first, last, low, high = values[0], values[-1], min(values), max(values)
    if low == high:
        return str(first)
    return f"from {first:g} to {last:g}" if first != last else f"between {low:g} and {high:g}"


def _hint(begun: Any, now: Any) -> str:
    return " (their code or what they keep differs)" if _shown(begun) == _shown(now) else ""


def _fingerprints(validation: Minibatches | None) -> list[Any] | None:
    if validation is None:
        return None
    classes = [] if validation.y is None else [fingerprint(validation.y)]
    given = [_of_given(validation.given)] if validation.given.rows or validation.given.whole else []
    return [validation.source.fingerprint(), *classes, *given]


def _of_given(given: Given) -> dict[str, Any]:
    """Return digests of what is given beside the data, by name."""
    return {
        name: fingerprint(value) if isinstance(value, Tensor) else described(value)
        for name, value in (given.rows | given.whole).items()
    }
