"""Images in [0, 1], or vectors: samples of the model, values decoded from latents, and reconstructions.

They are means of the site that observes the data, `(N, *x_shape)`, or draws where a function offers these.
If several sites observe the data, there is a dictionary by name. The values are draws instead of means,
with a seed, where there is no mean (Cauchy; this gives a warning), and where the model computes the
distribution of a value from earlier values of the datum and there are no data. These values are drawn one
after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyrovae.errors import InputError, check_counts
from pyrovae.generation.codes import encoded
from pyrovae.generation.generator import Generator, Images, as_images
from pyrovae.generation.prior import draws, images_of_draws
from pyrovae.programs.devices import back_to_caller
from pyrovae.programs.pair import ModelAndGuide, takes_pair


@takes_pair
@back_to_caller
def as_grey(pair: ModelAndGuide, x: Tensor, *, given: Mapping[str, Any] | None = None) -> Tensor:
    """Return data in the units of generated images: levels 0, ..., L - 1 are divided by L - 1.

    Args:
        pair: a pair.
        x: the data as the pair takes them, `(N, *x_shape)`.
        given: further arguments of both programs by name, such as a condition. None means nothing.

    Returns:
        `(N, *x_shape)`, where the data are; the data themselves unless the likelihood is categorical.
    """
    levels = Generator(pair, given, x).levels
    return (x if levels is None else x / (levels - 1)).cpu()


def only_site(images: Images) -> Tensor:
    """Return images of a model with one site that observes the data.

    Args:
        images: the result of a function of this package.

    Raises:
        InputError: several sites observe the data.
    """
    if isinstance(images, dict):
        raise InputError(
            f"the model observes data at several sites, {', '.join(images)}, and the images of one are "
            f'needed here: choose one of the results by name, such as images["{next(iter(images))}"].'
        )
    return images


@takes_pair
@back_to_caller
def images_of(
    pair: ModelAndGuide, codes: Mapping[str, Tensor], *, given: Mapping[str, Any] | None = None
) -> Images:
    """Return E[x | codes]. Latents without a code are at their means, discrete ones at their modes.

    A latent that all data share is at its mean under the guide, if it has no code.

    Args:
        pair: a trained pair.
        codes: values of latents by site, `(N, *event_shape)` each; one value, in its own shape, of a latent
            that all data share.
        given: further arguments of both programs by name, such as a condition. A tensor with N rows has one
            for each draw. None means nothing.

    Returns:
        `(N, *x_shape)`, where the codes are; a dictionary of them if several sites observe the data.

    Raises:
        InputError: there are no codes, or one of them has another number of rows or another shape; or the
            model observes no data, or cannot generate without data.
    """
    if not codes:
        raise InputError("there are no codes: give the values of at least one latent by name.")
    generator = _generator_of(pair, codes, given)
    _check_codes(generator, codes)
    return generator.images(codes)


def _generator_of(
    pair: ModelAndGuide, codes: Mapping[str, Tensor], given: Mapping[str, Any] | None
) -> Generator:
    """Return the generator of as many draws as there are rows in the codes that not all data share."""
    problem: InputError | None = None
    for count in dict.fromkeys([*(len(values) for values in codes.values() if values.dim()), 1]):
        try:
            generator = Generator(pair, given, count=count)
        except InputError as error:  # what is given has the number of rows of another code
            problem = problem or error
            continue
        own = [values for name, values in codes.items() if name not in generator.shared]
        if len(own[0]) == count if own else count == 1:
            return generator
    assert problem is not None
    raise problem


def _check_codes(generator: Generator, codes: Mapping[str, Tensor]) -> None:
    """Refuse codes of a site that the model does not have, and codes of a wrong shape.

    Raises:
        InputError: there are such codes.
    """
    nodes = generator.structure.traces.model.nodes
    for name, values in codes.items():
        site = generator.class_site
        if name not in nodes and not (site and name == site.name):
            raise InputError(
                f"codes has '{name}', and the latents of {generator.name} are "
                f"{', '.join(map(repr, generator.code_names)) or 'none'}: give values of these."
            )
        if name in generator.shared and values.shape != nodes[name]["value"].shape:
            raise InputError(
                f"the code of '{name}' has shape {tuple(values.shape)}, and all data share one value of "
                f"shape {tuple(nodes[name]['value'].shape)}: give one, such as codes['{name}'][0]."
            )
        if name not in generator.shared and len(values) != generator.size:
            raise InputError(
                f"there are {len(values)} codes of '{name}' and {generator.size} of another latent: give "
                "one of each for each image."
            )


@takes_pair
@back_to_caller
def samples(
    pair: ModelAndGuide,
    count: int,
    seed: int = 0,
    *,
    mean: bool = False,
    given: Mapping[str, Any] | None = None,
) -> Images:
    """Draw data from the model: latents z ~ p(z), then x ~ p(x | z), or the mean E[x | z].

    A seed gives the same latents with both values of `mean`.

    A latent that all data share, such as the weights of a regression, is drawn once from the guide, which
    is its posterior. All images share it.

    Args:
        pair: a trained pair.
        count: N, the number of draws.
        seed: the seed of the random draws. The caller's random stream does not change.
        mean: return E[x | z] in the place of draws of x. Means of images look sharper. Means of vectors
            vary less than data do.
        given: further arguments of both programs by name, such as a condition. A tensor with N rows has one
            for each draw. None means nothing.

    Returns:
        `(N, *x_shape)`; a dictionary of them if several sites observe the data.

    Raises:
        InputError: the model has no prior to draw from or cannot generate without data, or `count` is
            below 1.

    Example:
        >>> from pyrovae.generation import samples
        >>> from pyrovae.models import PPCA
        >>> samples(PPCA((4,), 2), 3).shape
        torch.Size([3, 4])
    """
    check_counts(count=count)
    generator = Generator(pair, given, count=count)
    rows = torch.arange(count)
    return as_images(images_of_draws(generator, draws(generator, rows, seed=seed), rows, seed, mean))


@takes_pair
@back_to_caller
def sample_images(
    pair: ModelAndGuide, count: int, seed: int = 0, *, given: Mapping[str, Any] | None = None
) -> Images:
    """Return E[x | z] for draws z ~ p(z): `samples` with `mean=True`.

    Args:
        pair: a trained pair.
        count: N, the number of draws.
        seed: the seed of the random draws. The caller's random stream does not change.
        given: further arguments of both programs by name, as in `samples`. None means nothing.

    Returns:
        `(N, *x_shape)`; a dictionary of them if several sites observe the data.

    Raises:
        InputError: for the reasons given at `samples`.

    Example:
        >>> from pyrovae.generation import sample_images
        >>> from pyrovae.models import PPCA
        >>> sample_images(PPCA((4,), 2), 3).shape
        torch.Size([3, 4])
    """
    return samples(pair, count, seed, mean=True, given=given)


@takes_pair
@back_to_caller
def reconstruct(pair: ModelAndGuide, x: Tensor, *, given: Mapping[str, Any] | None = None) -> Images:
    """Return E[x | z] at the posterior mean of each datum, in its most probable class.

    A likelihood that reads the data, such as a library size, gets them. A latent that all data share is at
    its posterior mean.

    Args:
        pair: a trained pair.
        x: the data, `(N, *x_shape)`.
        given: further arguments of both programs by name, such as a condition. A tensor with N rows has one
            for each datum. None means nothing.

    Returns:
        `(N, *x_shape)`, where the data are; a dictionary of them if several sites observe the data.
    """
    generator = Generator(pair, given, x)
    return generator.images(encoded(generator))


@takes_pair
@back_to_caller
def decode(
    pair: ModelAndGuide,
    z: Tensor,
    y: Tensor | None = None,
    site: str | None = None,
    *,
    given: Mapping[str, Any] | None = None,
) -> Images:
    """Return E[x | z], or E[x | z, y] for a model such as M2 whose images depend on a class too.

    A latent that all data share is at its mean under the guide.

    Args:
        pair: a trained pair.
        z: values of a latent, `(N, M)`.
        y: classes `(N,)`, for a model whose images depend on them.
        site: the latent. None means the one that the model samples last before the data.
        given: further arguments of both programs by name, such as a condition. A tensor with N rows has one
            for each draw. None means nothing.

    Returns:
        `(N, *x_shape)`, where z is; a dictionary of them if several sites observe the data.

    Raises:
        InputError: there is no such latent, or all data share it; x depends on a class too, and none is
            given; a class is given that the model does not have or that x does not depend on; or the model
            cannot generate without data.
    """
    return decoded(Generator(pair, given, count=len(z)), z, y, site)


def decoded(
    generator: Generator, z: Tensor, y: Tensor | None, site: str | None, rows: Tensor | None = None
) -> Images:
    """Do the work of `decode` with an existing generator, and with rows as in `Generator.images`."""
    site = generator.site_of_data(site)
    classes = generator.classes_behind(site)
    if y is None and classes:
        raise InputError(
            f"x depends on the class '{', '.join(sorted(classes))}' as well as on '{site}': say which "
            "class (decode(model, z, y), on the command line --label)."
        )
    if y is None:
        return generator.images({site: z}, rows)
    label, _ = generator.known_class_site()
    generator.check_classes(y, len(z))
    if label not in classes:
        raise InputError(
            f"given '{site}', x does not depend on a class: leave it out (y, on the command line --label)."
        )
    return generator.images({site: z, label: generator.class_values(y)}, rows)
