"""The scale of latents in the units of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyrovae.generation import code_site, images_of, only_site
from pyrovae.networks import Standardisation
from pyrovae.programs import ModelAndGuide
from pyrovae.programs.devices import back_to_caller
from pyrovae.programs.pair import takes_pair
from pyrovae.programs.reach import modules_of
from pyrovae.programs.rows import Arguments

STARTS = 50
"""The number of data at whose latents the decoder is asked."""


@takes_pair
@back_to_caller
def decoder_scales(pair: ModelAndGuide, z: Tensor, *, given: Mapping[str, Any] | None = None) -> Tensor:
    """Return how far E[x | z] moves when one latent moves by 1.

    Posterior means are close to unit variance, also along a latent that hardly matters for x. A classifier
    with a penalty, or with distances, needs each latent in proportion to what it does to x. For a linear
    decoder these scales are the norms of the columns of W. For others each is the root mean square over a
    few data, by central differences. If the model standardises the data, x is the standardised one.

    Args:
        pair: a pair.
        z: posterior means, as `latent_means` returns them, `(N, M)`.
        given: further arguments of both programs by name, such as a condition. A tensor with N rows has one
            for each datum. None means nothing.

    Returns:
        The scales, `(M,)`, where z is. Multiply latents by them.

    Raises:
        InputError: the model has no continuous latent.

    Example:
        >>> import torch
        >>> from pyrovae.models import PPCA
        >>> ppca = PPCA(5, latent_dim=2)
        >>> torch.allclose(decoder_scales(ppca, torch.zeros(1, 2)), ppca.weight.norm(dim=0), atol=1e-5)
        True
    """
    rows = torch.linspace(0, len(z) - 1, min(STARTS, len(z))).long()
    count = z.shape[1]
    few = Arguments((z,), given or {}).rows(rows)
    repeated = few.repeated(count).kwargs
    steps = 0.5 * torch.eye(count, dtype=z.dtype).unsqueeze(1)
    above, below = (
        _decoded(pair, (few.args[0] + step).flatten(0, 1), repeated).unflatten(0, (count, -1))
        for step in (steps, -steps)
    )
    return ((above - below) / _units_of(pair)).square().sum(-1).mean(-1).sqrt()


def _units_of(pair: ModelAndGuide) -> Tensor:
    """Return the scale of each value of x by which the model divides, `(D,)`, or 1."""
    parts = (part for module in modules_of(pair) for part in module.modules())
    found = next((part for part in parts if isinstance(part, Standardisation)), None)
    return torch.ones(1) if found is None else found.scale.detach().flatten().cpu()


def _decoded(pair: ModelAndGuide, z: Tensor, given: Mapping[str, Any]) -> Tensor:
    """Return E[x | z], `(B, D)`."""
    example = Arguments((z,), given).rows(slice(1)).kwargs
    site = code_site(pair, given=example or None)
    return only_site(images_of(pair, {site: z}, given=given or None)).flatten(1)
