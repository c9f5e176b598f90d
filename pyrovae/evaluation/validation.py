"""The check that a pair has a log density for each datum."""

from __future__ import annotations

from dataclasses import replace

import torch

from pyrovae.programs.checks import check_pair
from pyrovae.programs.layout import Layout, layout_of
from pyrovae.programs.neighbours import check_no_neighbours
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.rows import Arguments
from pyrovae.programs.ways import needs_all

_FEW = 7  # the number of data that the pair is tried on


def check_scorable(
    pair: ModelAndGuide,
    device: torch.device,
    data: Arguments,
    enumerate: bool,
    joint: bool = False,
) -> Layout:
    """Run the pair on a few data and refuse it unless it has a log density for each datum.

    A pair that runs on all of the data only is run on all of them.

    Args:
        pair: a pair.
        device: the device of the pair.
        data: the arguments of a call with all data, which have N rows each.
        enumerate: whether the sites that the guide marks for enumeration will be summed out.
        joint: whether one log density is for all data together.

    Returns:
        The layout of the pair's log densities.

    Raises:
        InputError: for the reasons given at `check_pair`, `layout_of` and `check_no_neighbours`.
    """
    few = data.rows(slice(None, _FEW)).to(device)
    whole = joint or (len(data.args[0]) > _FEW and needs_all(pair, few, len(few.args[0])))
    found = data.to(device) if whole else few
    check_pair(pair, *found.args, **found.kwargs)
    layout = layout_of(pair, found, enumerate, joint)
    if not joint:
        check_no_neighbours(pair, found)
    return replace(layout, whole=whole)
