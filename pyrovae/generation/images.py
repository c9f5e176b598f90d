"""Images in [0, 1] decoded from latents: samples of the prior and reconstructions of data."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.generation.classes import classes_for
from pyrovae.generation.generator import Generator
from pyrovae.generation.prior import draws
from pyrovae.programs.pair import ModelAndGuide, takes_pair


@takes_pair
def images_of(pair: ModelAndGuide, codes: Mapping[str, Tensor]) -> Tensor:
    """Return E[x | codes]. Latents without a code are at their means, classes at their modes.

    Args:
        pair: a trained pair.
        codes: values of latents by site, `(N, *event_shape)` each.

    Returns:
        `(N, *x_shape)`, on the CPU.
    """
    return Generator(pair).images(codes)


@takes_pair
def sample_images(pair: ModelAndGuide, count: int, seed: int = 0) -> Tensor:
    """Return E[x | z] for draws z ~ p(z).

    Args:
        pair: a trained pair.
        count: N, the number of draws.
        seed: the seed of the random draws. The caller's random stream does not change.

    Returns:
        `(N, *x_shape)`, on the CPU.

    Raises:
        InputError: the model has no prior to draw from, or `count` is below 1.

    Example:
        >>> from pyrovae.generation import sample_images
        >>> from pyrovae.models import PPCA
        >>> sample_images(PPCA((4,), 2), 3).shape
        torch.Size([3, 4])
    """
    generator = Generator(pair)
    return generator.images(draws(generator, count, seed=seed))


@takes_pair
def reconstruct(pair: ModelAndGuide, x: Tensor) -> Tensor:
    """Return E[x | z] at the posterior mean of each datum, in its most probable class.

    Args:
        pair: a trained pair.
        x: the data, `(N, *x_shape)`.

    Returns:
        `(N, *x_shape)`, on the CPU.
    """
    generator = Generator(pair)
    return generator.images(generator.codes(x))


@takes_pair
def decode(pair: ModelAndGuide, z: Tensor, y: Tensor | None = None, site: str | None = None) -> Tensor:
    """Return E[x | z], or E[x | z, y] for a model such as M2 whose images depend on a class too.

    Args:
        pair: a trained pair.
        z: values of a latent, `(N, M)`.
        y: classes `(N,)`, for a model whose images depend on them.
        site: the latent. None means the one that the model samples last before the data.

    Returns:
        `(N, *x_shape)`, on the CPU.

    Raises:
        InputError: there is no such latent; x depends on a class too, and none is given; or a class is
            given that the model does not have or that x does not depend on.
    """
    return decoded(Generator(pair), z, y, site)


def decoded(generator: Generator, z: Tensor, y: Tensor | None, site: str | None) -> Tensor:
    """Do the work of `decode` with an existing generator."""
    site = generator.code_site(site)
    classes = classes_for(generator, site)
    if y is None and classes:
        raise InputError(
            f"x depends on the class '{', '.join(classes)}' as well as on '{site}': say which class "
            "(decode(model, z, y), on the command line --label)."
        )
    if y is None:
        return generator.images({site: z})
    label, num_classes = generator.known_class_site()
    if y.min() < 0 or y.max() >= num_classes:
        raise InputError(
            f"the classes go from {int(y.min())} to {int(y.max())}; there are {num_classes}, "
            "counted from 0."
        )
    if label not in classes:
        raise InputError(
            f"given '{site}', x does not depend on a class: leave it out (y, on the command line --label)."
        )
    return generator.images({site: z, label: y})
