"""The check that a pair has a log density for each datum."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrovae.evaluation.chunking import arguments_of
from pyrovae.programs.checks import check_pair
from pyrovae.programs.log_weights import Layout, layout_of
from pyrovae.programs.pair import ModelAndGuide

_FEW = 7  # the number of data that the pair is tried on


def check_scorable(
    pair: ModelAndGuide, device: torch.device, x: Tensor, y: Tensor | None, enumerate: bool
) -> Layout:
    """Run the pair on a few data and refuse it unless it has a log density for each datum.

    Args:
        pair: a pair.
        device: the device of the pair.
        x: the data, `(N, *x_shape)`.
        y: classes `(N,)`, or None.
        enumerate: whether the sites that the guide marks for enumeration will be summed out.

    Returns:
        The layout of the pair's log densities.

    Raises:
        InputError: for the reasons given at `check_pair` and `layout_of`.
    """
    args = arguments_of(slice(None, _FEW), device, x, y)
    check_pair(pair, *args)
    return layout_of(pair, args, enumerate)
