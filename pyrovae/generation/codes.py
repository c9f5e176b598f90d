"""The codes of data: the latents that the guide gives to them."""

from __future__ import annotations

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.compute.devices import seeded
from pyrovae.generation.generator import ROWS, Codes, Generator
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide, takes_pair


@takes_pair
def code_site(pair: ModelAndGuide, site: str | None = None) -> str:
    """Return the name of a continuous latent.

    Args:
        pair: a pair.
        site: the name. None means the latent that the model samples last before the data.

    Raises:
        InputError: there is no such latent.
    """
    return Generator(pair).code_site(site)


@takes_pair
def latent_codes(pair: ModelAndGuide, x: Tensor) -> Codes:
    """Return the latents of data at the guide's means, and classes at their modes.

    In a model without latents, such as an autoencoder, the codes are its `pyro.deterministic` sites.

    Args:
        pair: a trained pair.
        x: the data, `(N, *x_shape)`.

    Returns:
        Each latent's values by site, `(N, *event_shape)`, on the CPU.
    """
    return Generator(pair).codes(x)


@takes_pair
def latent_means(pair: ModelAndGuide, x: Tensor, site: str | None = None) -> Tensor:
    """Return the posterior mean of a latent for each datum (of an autoencoder, the code).

    Other latents that it depends on are at their own means, classes at their modes.

    Args:
        pair: a trained pair.
        x: the data, `(N, *x_shape)`.
        site: the latent. None means the one that the model samples last before the data.

    Returns:
        `(N, M)`, on the CPU.

    Raises:
        InputError: there is no such latent.

    Example:
        >>> import torch
        >>> from pyrovae.generation import latent_means
        >>> from pyrovae.models import PPCA
        >>> latent_means(PPCA((4,), 2), torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """
    generator = Generator(pair)
    return generator.codes(x)[generator.code_site(site)]


@torch.no_grad()
@takes_pair
def posterior_draws(pair: ModelAndGuide, x: Tensor, site: str | None = None, seed: int = 0) -> Tensor:
    """Draw once from the guide for each datum. Together these are draws of the aggregated posterior.

    Args:
        pair: a trained pair.
        x: the data, `(N, *x_shape)`.
        site: the latent. None means the one that the model samples last before the data.
        seed: the seed of the random draws. The caller's random stream does not change.

    Returns:
        `(N, M)`, on the CPU.

    Raises:
        InputError: there is no such latent, or it is a function of the datum.
    """
    generator = Generator(pair)
    name, device = generator.prior_site(site), generator.device
    with evaluating(pair), seeded(seed, device):
        guide = poutine.trace(pair.guide)
        return torch.cat(
            [guide.get_trace(part.to(device)).nodes[name]["value"].cpu() for part in x.split(ROWS)]
        )
