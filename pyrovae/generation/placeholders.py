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

from pyrovae.errors import InputError, cause
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.reach import modules_of
from pyrovae.programs.structure import Structure

Shape = tuple[int, ...]

_LONGEST = 4  # the dimensions of a datum that are tried


def shape_of_a_datum(pair: ModelAndGuide, like: Tensor, kwargs: Mapping[str, Any]) -> Shape:
    """Return the shape of a datum of the pair.

    Args:
        pair: a pair.
        like: a tensor of the data's type and device.
        kwargs: keyword arguments of the model, with a row for one datum.

    Raises:
        InputError: nothing says the shape.
    """
    modules = modules_of(pair)
    holders = (pair, *modules, *(getattr(module, "likelihood", None) for module in modules))
    for holder in holders:
        if (shape := getattr(holder, "x_shape", None)) is not None:
            return tuple(shape)
    problem = "its sites do not tell"
    for dimensions in range(_LONGEST):
        try:
            if (found := _shape_of_sites(pair, like, kwargs, dimensions)) is not None:
                return found
        except Exception as error:  # a program may fail in any way on data of another shape
            problem = f"on data of another shape it says: {cause(error).split(' Trace Shapes')[0]}"
    raise shape_unknown(problem)


def shape_unknown(problem: str) -> InputError:
    """Return the error for a pair that needs the shape of its data and does not tell it."""
    return InputError(
        f"the shape of a datum is not known, and the programs need it ({problem}): give the pair, or the "
        "module that owns its programs, an attribute x_shape, such as vae.x_shape = (1, 28, 28)."
    )


def _shape_of_sites(
    pair: ModelAndGuide, like: Tensor, kwargs: Mapping[str, Any], dimensions: int
) -> Shape | None:
    """Return the shape in which the model observes data; None if it depends on that of the placeholder."""

    def events(shape: Shape) -> dict[str, tuple[Shape, bool]]:
        """Return the event shape of each observed site, and whether its value has the right shape."""
        found = Structure(pair.model, (like.new_zeros(1, *shape),), kwargs)
        nodes = found.traces.model.nodes
        return {
            name: (nodes[name]["fn"].event_shape, nodes[name]["value"].shape == nodes[name]["fn"].shape())
            for name in found.observed
        }

    shapes, others = ([shape for shape, _ in events((size,) * dimensions).values()] for size in (1, 2))
    if shapes != others:
        return None
    shape = tuple(shapes[0]) if len(shapes) == 1 else (sum(map(math.prod, shapes)),)
    return shape if all(fits for _, fits in events(shape).values()) else None
