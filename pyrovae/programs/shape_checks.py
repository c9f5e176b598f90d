"""The check that every log density has the shape that the plates of its site say.

A plate's dimension has as many entries as the plate has members, and every other dimension has one entry.
A log density of another shape would be added up all the same, and each datum would count several times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.programs.densities import unscaled_log_prob
from pyrovae.programs.distributions import name_of
from pyrovae.programs.sites import members_of


def check_shapes(program: str, name: str, site: Mapping[str, Any]) -> None:
    """Refuse a site whose value, mask, scale or log density does not have the shape that its plates say.

    Args:
        program: "model" or "guide", for the message.
        name: the name of the site.
        site: the site, a node of a trace whose log densities have been computed, without particles and
            enumeration.

    Raises:
        InputError: a shape is another one. The message names the site, both shapes and a remedy.
    """
    expected = _shape_of_plates(site)
    fn, value = site["fn"], site["value"]
    batch = value.shape[: value.dim() - fn.event_dim]
    found = {"value": batch, "log density": unscaled_log_prob(site).shape}
    found |= {part: site[part].shape for part in ("mask", "scale") if isinstance(site[part], Tensor)}
    for part, shape in found.items():
        exact = part == "log density"
        if not _fits(tuple(shape), expected, exact):
            raise InputError(_message(program, name, site, part, tuple(shape), expected))


def check_inside_plates(name: str, site: Mapping[str, Any]) -> None:
    """Refuse a site whose distribution has further batch dimensions than the plates that it lies under.

    Args:
        name: the name of the site.
        site: the site, as a program samples it, without particles and enumeration.

    Raises:
        InputError: it has some. A missing `to_event` looks so where a datum has as many values as the plate
            has members.
    """
    shape, expected = tuple(site["fn"].batch_shape), _shape_of_plates(site)
    if expected and not _fits(shape, expected, exact=False):
        raise InputError(_message("program", name, site, "log density", shape, expected))


def _shape_of_plates(site: Mapping[str, Any]) -> tuple[int, ...]:
    frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
    shape = [1] * max((-frame.dim for frame in frames), default=0)
    for frame in frames:
        shape[frame.dim] = members_of(frame, site)
    return tuple(shape)


def _fits(shape: tuple[int, ...], expected: tuple[int, ...], exact: bool) -> bool:
    """Whether a shape, apart from leading ones, is the expected one, or broadcasts to it if not `exact`."""
    depth = max(len(shape), len(expected))
    sizes, wanted = ((1,) * (depth - len(part)) + part for part in (shape, expected))
    return all(size == want or (size == 1 and not exact) for size, want in zip(sizes, wanted, strict=True))


def _message(
    program: str,
    name: str,
    site: Mapping[str, Any],
    part: str,
    shape: tuple[int, ...],
    expected: tuple[int, ...],
) -> str:
    fn, plates = site["fn"], [frame for frame in site["cond_indep_stack"] if frame.vectorized]
    under = " and ".join(f"plate '{frame.name}' (dimension {frame.dim})" for frame in plates) or "no plate"
    what = {
        "value": f"a value of shape {tuple(site['value'].shape)}, that is, batch shape {shape}",
        "log density": f"a log density of shape {shape}",
        "mask": f"a mask of shape {shape}",
        "scale": f"a scale of shape {shape}",
    }[part]
    return (
        f"the {program}'s site '{name}' ({name_of(fn)}, event shape {tuple(fn.event_shape)}) has {what}. "
        f"It lies under {under}, so the expected shape is {expected}: {_remedy(site, part, expected)}."
    )


def _remedy(site: Mapping[str, Any], part: str, expected: tuple[int, ...]) -> str:
    fn, value = site["fn"], site["value"]
    if part in ("mask", "scale"):
        return f"give the {part} the shape {expected}, for example by squeeze(-1)"
    batch, event_dim = tuple(fn.batch_shape), fn.event_dim
    if part == "value" and _fits(batch, expected, exact=False):
        return (
            f"give values of shape {batch + tuple(fn.event_shape)}, for example by squeeze(-1) if they are "
            "a column"
        )
    extra = max(1, max(len(batch), value.dim() - event_dim) - len(expected))
    return (
        f"declare the dimensions of one datum as event dimensions with .to_event({event_dim + extra}); or, "
        "if a column such as (B, 1), among the parameters, the mask or the values, has been broadcast "
        "against (B,), remove its last dimension with squeeze(-1)"
    )
