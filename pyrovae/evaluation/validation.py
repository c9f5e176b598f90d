"""The check that a pair has a log density for each datum."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pyrovae.evaluation.chunking import arguments_of
from pyrovae.programs.checks import check_pair
from pyrovae.programs.log_weights import Layout, layout_of
from pyrovae.programs.neighbours import check_no_neighbours
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.rows import Arguments
from pyrovae.programs.ways import needs_all

_FEW = 7  # the number of data that the pair is tried on


def check_scorable(
    pair: ModelAndGuide,
    device: torch.device,
    x: Tensor,
    y: Tensor | None,
    enumerate: bool,
    joint: bool = False,
) -> Layout:
    """Run the pair on a few data and refuse it unless it has a log density for each datum.

    A pair that runs on all of the data only is run on all of them.

    Args:
        pair: a pair.
        device: the device of the pair.
        x: the data, `(N, *x_shape)`.
        y: classes `(N,)`, or None.
        enumerate: whether the sites that the guide marks for enumeration will be summed out.
        joint: whether one log density is for all data together.

    Returns:
        The layout of the pair's log densities.

    Raises:
        InputError: for the reasons given at `check_pair`, `layout_of` and `check_no_neighbours`.
    """
    few = arguments_of(slice(None, _FEW), device, x, y)
    whole = joint or (len(x) > _FEW and needs_all(pair, Arguments(few), len(few[0])))
    args = arguments_of(slice(None), device, x, y) if whole else few
    check_pair(pair, *args)
    layout = layout_of(pair, args, enumerate, joint=joint)
    if not joint:
        check_no_neighbours(pair, Arguments(args))
    return replace(layout, whole=whole)
