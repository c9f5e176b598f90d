"""Images of a model with classes: samples of each class, and the style of a datum in every class."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.generation.generator import Generator
from pyrovae.generation.prior import draws
from pyrovae.programs.pair import ModelAndGuide, takes_pair


@takes_pair
def num_classes(pair: ModelAndGuide) -> int:
    """Return C, the number of classes of a model.

    Raises:
        InputError: the model has no classes.
    """
    return Generator(pair).known_class_site().num_classes


@takes_pair
def classes_behind(pair: ModelAndGuide, site: str | None = None) -> set[str]:
    """Return the class sites that x depends on when a latent is given.

    Args:
        pair: a pair.
        site: the latent. None means the one that the model samples last before the data.

    Raises:
        InputError: there is no such latent.
    """
    return classes_for(Generator(pair), site)


def classes_for(generator: Generator, site: str | None) -> set[str]:
    """Do the work of `classes_behind` with an existing generator."""
    given = {generator.code_site(site)}
    return generator.ancestors(generator.data_site, given) & generator.classes


@takes_pair
def class_samples(pair: ModelAndGuide, count: int = 10, candidates: int = 100, seed: int = 0) -> Tensor:
    """Return E[x | y, z] for draws z ~ p(z | y) of each class.

    Args:
        pair: a trained pair.
        count: N, the number of draws of each class.
        candidates: the number of draws from which one is kept, if the class is predicted from z.
        seed: the seed of the random draws. The caller's random stream does not change.

    Returns:
        `(C, N, *x_shape)`, on the CPU.

    Raises:
        InputError: the model has no classes, or for the reasons given at `draw_latents`.
    """
    generator = Generator(pair)
    site, classes = generator.known_class_site()
    rows = []
    for label in range(classes):
        codes = draws(generator, count, label, candidates, seed=seed + label)
        rows.append(generator.images(codes | {site: torch.full((count,), label)}))
    return torch.stack(rows)


@takes_pair
def samples_of_classes(pair: ModelAndGuide, y: Tensor, candidates: int = 100, seed: int = 0) -> Tensor:
    """Return E[x | y, z] for each of the given classes, with one draw z ~ p(z | y) for each.

    Args:
        pair: a trained pair.
        y: classes `(N,)`.
        candidates: the number of draws from which one is kept, if the class is predicted from z.
        seed: the seed of the random draws. The caller's random stream does not change.

    Returns:
        `(N, *x_shape)`, on the CPU.

    Raises:
        InputError: the model has no classes, or for the reasons given at `draw_latents`.
    """
    generator = Generator(pair)
    site, _ = generator.known_class_site()
    rows, parts = [], []
    for label in y.unique().tolist():
        rows.append((y == label).nonzero().squeeze(1))
        codes = draws(generator, len(rows[-1]), label, candidates, seed=seed + label)
        parts.append(generator.images(codes | {site: y[rows[-1]]}))
    return torch.cat(parts)[torch.cat(rows).argsort()]


@takes_pair
def analogies(pair: ModelAndGuide, x: Tensor) -> Tensor:
    """Decode each datum's style in every class (Kingma et al. 2014, figure 1).

    The latents are at the guide's means for the datum, and the class is set to 0, 1, ..., C - 1.

    Args:
        pair: a trained pair.
        x: the data, `(N, *x_shape)`.

    Returns:
        `(N, C, *x_shape)`, on the CPU.

    Raises:
        InputError: the model has no classes, or x does not depend on them.
    """
    generator = Generator(pair)
    label, classes = generator.known_class_site()
    if generator.data_site not in generator.descendants(label):
        raise InputError(
            f"in a {generator.name} the class '{label}' is predicted from the latents and x does not "
            "depend on it, so there is no style apart from it: draw class_samples instead."
        )
    codes = generator.without_descendants(generator.codes(x), label)
    rows = {name: values.repeat_interleave(classes, 0) for name, values in codes.items()}
    rows[label] = torch.arange(classes).repeat(len(x))
    return generator.images(rows).unflatten(0, (len(x), classes))
