"""The codes of data: the latents that the guide gives to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.compute.devices import seeded
from pyrovae.generation.generator import ROWS, Codes, Generator
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide, takes_pair


@takes_pair
def code_site(
    pair: ModelAndGuide, site: str | None = None, *, given: Mapping[str, Any] | None = None
) -> str:
    """Return the name of a continuous latent.

    Args:
        pair: a pair.
        site: the name. None means the latent that the model samples last before the data.
        given: further arguments of both programs by name, such as a condition, with one row `(1, ...)`.
            None means nothing.

    Raises:
        InputError: there is no such latent.
    """
    return Generator(pair, given).code_site(site)


@takes_pair
def latent_codes(pair: ModelAndGuide, x: Tensor, *, given: Mapping[str, Any] | None = None) -> Codes:
    """Return the latents of data at the guide's means, and classes at their modes.

    A mean without a closed form, such as that of a flow, is the average of `MEAN_DRAWS` = 100 draws of
    `pyrovae.programs.distributions`, with a fixed seed. In a model without latents, such as an autoencoder,
    the codes are its `pyro.deterministic` sites.

    Args:
        pair: a trained pair.
        x: the data, `(N, *x_shape)`.
        given: further arguments of both programs by name, such as a condition. A tensor with N rows has one
            for each datum. None means nothing.

    Returns:
        Each latent's values by site, `(N, *event_shape)`, on the CPU.

    Raises:
        InputError: a latent has no mean under the guide, such as a Cauchy variable.
    """
    generator = Generator(pair, given, x)
    return generator.codes(exact=generator.code_names)


@takes_pair
def latent_means(
    pair: ModelAndGuide, x: Tensor, site: str | None = None, *, given: Mapping[str, Any] | None = None
) -> Tensor:
    """Return the posterior mean of a latent for each datum (of an autoencoder, the code).

    Other latents that it depends on are at their own means, classes at their modes. A mean without a closed
    form, such as that of a flow, is the average of 100 draws with a fixed seed.

    Args:
        pair: a trained pair.
        x: the data, `(N, *x_shape)`.
        site: the latent. None means the one that the model samples last before the data.
        given: further arguments of both programs by name, such as a condition. A tensor with N rows has one
            for each datum. None means nothing.

    Returns:
        `(N, M)`, on the CPU.

    Raises:
        InputError: there is no such latent; or it, or a latent that it depends on, has no mean under the
            guide, such as a Cauchy variable: then draw it by `posterior_draws`.

    Example:
        >>> import torch
        >>> from pyrovae.generation import latent_means
        >>> from pyrovae.models import PPCA
        >>> latent_means(PPCA((4,), 2), torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """
    generator = Generator(pair, given, x)
    site = generator.code_site(site)
    return generator.codes(exact=[site])[site]


@torch.no_grad()
@takes_pair
def posterior_draws(
    pair: ModelAndGuide,
    x: Tensor,
    site: str | None = None,
    seed: int = 0,
    *,
    given: Mapping[str, Any] | None = None,
) -> Tensor:
    """Draw once from the guide for each datum. Together these are draws of the aggregated posterior.

    Args:
        pair: a trained pair.
        x: the data, `(N, *x_shape)`.
        site: the latent. None means the one that the model samples last before the data.
        seed: the seed of the random draws. The caller's random stream does not change.
        given: further arguments of both programs by name, such as a condition. A tensor with N rows has one
            for each datum. None means nothing.

    Returns:
        `(N, M)`, on the CPU.

    Raises:
        InputError: there is no such latent, or it is a function of the datum.
    """
    generator = Generator(pair, given, x)
    name = generator.prior_site(site)
    guide, parts = poutine.trace(generator.pair.guide), []
    with evaluating(generator.pair), seeded(seed, generator.device):
        for rows in torch.arange(len(x)).split(ROWS):
            args, kwargs = generator.arguments(rows)
            parts.append(guide.get_trace(*args, **kwargs).nodes[name]["value"].cpu())
    return torch.cat(parts)
