"""The shape of a datum, for programs that are called without data.

A placeholder stands for the data. It needs their shape, since a program may reshape what it observes. The
shape is an attribute `x_shape` of the pair, of a module or of its likelihood. Without one, the shape is
that of the observed sites, if the model runs on data of this shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.programs.pair import ModelAndGuide, Program, data_plate_of
from pyrovae.programs.reach import modules_of
from pyrovae.programs.sites import is_sample, role_of
from pyrovae.programs.structure import Structure

Shape = tuple[int, ...]

ROWS = 2
"""The number of data on which a model is tried."""

FILLINGS = (0.0, 1.0)
"""The values of a placeholder. Ones are for models that fail on zeros, as a count of no words may."""

_MOST_DIMENSIONS = 4  # of the data that the model is tried on, with their number


def shape_of_a_datum(pair: ModelAndGuide, like: Tensor, kwargs: Mapping[str, Any]) -> Shape:
    """Return the shape of a datum of the pair.

    Args:
        pair: a pair.
        like: a tensor of the data's type and device.
        kwargs: keyword arguments of the model, for `ROWS` data.

    Raises:
        InputError: nothing says the shape.
    """
    modules = modules_of(pair)
    holders = (pair, *modules, *(getattr(module, "likelihood", None) for module in modules))
    for holder in holders:
        if (shape := getattr(holder, "x_shape", None)) is not None:
            return tuple(shape)
    for dimensions in range(_MOST_DIMENSIONS):
        one, other = (_shape_of_sites(pair, like, kwargs, (size,) * dimensions) for size in (1, 2))
        if one is not None and one == other and _fits(pair, like, kwargs, one):
            return one
    # A program may flatten what it observes, x.reshape(-1, 784).
    sizes = {size for module in modules for value in module.parameters() for size in value.shape}
    flat = [size for size in sizes if _fits(pair, like, kwargs, (size,))]
    if len(flat) == 1 and not _fits(pair, like, kwargs, (flat[0] + 1,)):
        return (flat[0],)
    raise InputError(
        "the shape of a datum is not known, and the programs need it: give the pair the shape, such as "
        "Pair(model, guide, x_shape=(4,)) for vectors of 4 numbers, or give the module that owns the "
        "programs an attribute x_shape, such as vae.x_shape = (1, 28, 28)."
    )


def data_sites_of(model: Program, x: Tensor, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sites that observe the data, as they are in a trace, by name in order.

    A site whose value does not change with the data, such as that of a given condition, is not one. If no
    value changes, all observed sites are.
    """
    one, other = (Structure(model, (data,), kwargs).traces.model.nodes for data in (x, x + 1))
    observed = {name: site for name, site in one.items() if is_sample(site) and role_of(site) == "observed"}
    values = {name: (site["value"], other[name]["value"]) for name, site in observed.items()}
    same = {name for name, (value, changed) in values.items() if value.numel() and value.equal(changed)}
    return {name: site for name, site in observed.items() if name not in same} or observed


def _shape_of_sites(
    pair: ModelAndGuide, like: Tensor, kwargs: Mapping[str, Any], shape: Shape
) -> Shape | None:
    """Return the shape of the sites that observe data, run on data of some shape; None if it fails."""
    if (found := _sites(pair, like, kwargs, shape)) is None:
        return None
    x, sites = found
    of = Structure(pair.model, (x,), kwargs, data_plate=data_plate_of(pair))
    shapes = [_without(of.data_axis(name), site["fn"].shape()) for name, site in sites.items()]
    return shapes[0] if len(shapes) == 1 else (sum(map(math.prod, shapes)),)


def _without(axis: int | None, shape: Shape) -> Shape:
    """Return the shape of a datum's values, from that of all data, which have this axis or the first."""
    axis = 0 if axis is None else len(shape) + axis
    return tuple(shape[:axis]) + tuple(shape[axis + 1 :])


def _fits(pair: ModelAndGuide, like: Tensor, kwargs: Mapping[str, Any], shape: Shape) -> bool:
    """Whether the model observes data of this shape in the shapes of its distributions."""
    if (found := _sites(pair, like, kwargs, shape)) is None:
        return False
    return all(site["value"].shape == site["fn"].shape() for site in found[1].values())


def _sites(
    pair: ModelAndGuide, like: Tensor, kwargs: Mapping[str, Any], shape: Shape
) -> tuple[Tensor, dict[str, Any]] | None:
    """Return data of some shape and the sites that observe them; None if the model does not run on them."""
    for filling in FILLINGS:
        x = like.new_full((ROWS, *shape), filling)
        try:
            return x, data_sites_of(pair.model, x, kwargs)
        except Exception:  # a program may fail in any way on data of another shape
            continue
    return None
