"""What a trained model makes: samples, reconstructions, interpolations, as images in [0, 1].

Everything here runs the programs and knows no particular model. An image is the mean of the distribution
at the site that observes the data, in a run of `model.model` in which some latents are given and the
others stand at their means; the code of a datum is where `model.guide` puts its latents
(`latents.latent_codes`). A latent that is changed takes those that depend on it along: with another
class y, M1+M2's z1 is p(z1 | z2, y)'s mean. Where a function takes a `site`, see `latents`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro.distributions import Categorical, Independent
from torch import Tensor, nn

from pyrovae.errors import InputError
from pyrovae.generation.latents import (
    ROWS,
    Codes,
    code_site,
    draw_latents,
    latent_codes,
    latent_means,
    num_classes,
    prior_quantiles,
    prior_site,
    run_forward,
    sites_of,
)
from pyrovae.programs.devices import device_of
from pyrovae.programs.modes import evaluating

__all__ = [
    "analogies",
    "class_samples",
    "classes_behind",
    "decode",
    "images_of",
    "interpolate",
    "interpolate_grid",
    "latent_means",
    "manifold",
    "reconstruct",
    "sample_images",
    "samples_of_classes",
    "traverse",
]

LEVELS = (0.01, 0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95, 0.99)  # of the quantiles in a traversal


@torch.no_grad()
def images_of(model: nn.Module, codes: Mapping[str, Tensor]) -> Tensor:
    """E[x | codes], latents that have none at their means: `(N, *event_shape)` each, to `(N, *x_shape)`."""
    device, data = device_of(model), sites_of(model).data
    parts = zip(*(values.to(device).split(ROWS) for values in codes.values()), strict=True)
    images = []
    with evaluating(model):
        for part in parts:
            trace = run_forward(model, len(part[0]), dict(zip(codes, part, strict=True)), means=True)
            images.append(_grey(trace.nodes[data]["fn"]).cpu())
    return torch.cat(images)


def _grey(fn: Any) -> Tensor:
    """A distribution's mean; of levels 0, 1, ..., L - 1 the mean's share of the highest."""
    pixels = fn.base_dist if isinstance(fn, Independent) else fn
    if not isinstance(pixels, Categorical):
        return fn.mean
    return pixels.probs @ torch.linspace(0, 1, pixels.probs.shape[-1]).to(pixels.probs)


# From the prior


def sample_images(model: nn.Module, count: int, seed: int = 0) -> Tensor:
    """E[x | z] for `count` draws z ~ p(z): `(count, *x_shape)`.

    Raises:
        InputError: the model has no prior to draw from, or `count` is below 1.
    """
    return images_of(model, draw_latents(model, count, seed=seed))


def class_samples(model: nn.Module, count: int = 10, candidates: int = 100, seed: int = 0) -> Tensor:
    """E[x | y, z] for `count` draws z ~ p(z | y) of each class: `(C, count, *x_shape)`.

    Raises:
        InputError: what `latents.draw_latents` raises.
    """
    site, rows = sites_of(model).label, []
    for label in range(num_classes(model)):
        codes = draw_latents(model, count, label, candidates, seed=seed + label)
        rows.append(images_of(model, codes | {str(site): torch.full((count,), label)}))
    return torch.stack(rows)


def samples_of_classes(model: nn.Module, y: Tensor, candidates: int = 100, seed: int = 0) -> Tensor:
    """E[x | y, z] for a draw z ~ p(z | y) for each of the classes `(N,)`: `(N, *x_shape)`.

    Raises:
        InputError: what `latents.draw_latents` raises.
    """
    site, rows, parts = str(sites_of(model).label), [], []
    for label in y.unique().tolist():
        rows.append((y == label).nonzero().squeeze(1))
        codes = draw_latents(model, len(rows[-1]), label, candidates, seed=seed + label)
        parts.append(images_of(model, codes | {site: y[rows[-1]]}))
    return torch.cat(parts)[torch.cat(rows).argsort()]


def manifold(
    model: nn.Module, steps: int = 15, label: int | None = None, site: str | None = None
) -> Tensor:
    """Decode a 2-D latent space at the prior's quantiles, 1% to 99%: `(steps, steps, *x_shape)`.

    The first dimension grows to the right and the second upwards.

    Args:
        model: a module with the programs `model` and `guide`.
        steps: images along each axis.
        label: the class, where images depend on one.
        site: the latent.

    Raises:
        InputError: the latent is not 2-D or has no prior, fewer than 2 steps, or a class is lacking.
    """
    if steps < 2:
        raise InputError(f"steps is {steps}; a grid has at least 2 on each side.")
    site = prior_site(model, site)
    quantiles = prior_quantiles(model, torch.linspace(0.01, 0.99, steps).tolist(), site)
    if quantiles.shape[-1] != 2:
        raise InputError(
            f"'{site}' has {quantiles.shape[-1]} dimensions, and a plane has 2: train with latent_dim 2, "
            "or traverse one dimension at a time."
        )
    up, right = torch.meshgrid(quantiles[:, 1].flip(0), quantiles[:, 0], indexing="ij")
    z = torch.stack([right, up], -1).flatten(0, 1)
    y = None if label is None else torch.full((len(z),), label)
    return decode(model, z, y, site).unflatten(0, (steps, steps))


# From codes


def decode(model: nn.Module, z: Tensor, y: Tensor | None = None, site: str | None = None) -> Tensor:
    """E[x | z], in M2 E[x | z, y], as images: `(N, M)` and classes `(N,)` to `(N, *x_shape)`.

    Raises:
        InputError: there is no such latent; or x depends on a class too and none is given, or a class is
            given that there is not or that x does not depend on.
    """
    sites, site = sites_of(model), code_site(model, site)
    classes = classes_behind(model, site)
    if y is None and classes:
        raise InputError(
            f"x depends on the class '{', '.join(classes)}' as well as on '{site}': say which class "
            "(decode(model, z, y), on the command line --label)."
        )
    if y is None:
        return images_of(model, {site: z})
    if y.min() < 0 or y.max() >= num_classes(model):
        raise InputError(
            f"the classes go from {int(y.min())} to {int(y.max())}; there are {sites.num_classes}, "
            "counted from 0."
        )
    if sites.label not in classes:
        raise InputError(
            f"given '{site}', x does not depend on a class: leave it out (y, on the command line --label)."
        )
    return images_of(model, {site: z, sites.label: y})


def classes_behind(model: nn.Module, site: str | None = None) -> set[str]:
    """The classes that x depends on as well, once the latent is given.

    Raises:
        InputError: there is no such latent.
    """
    sites = sites_of(model)
    return sites.ancestors(sites.data, {code_site(model, site)}) & sites.discrete


def reconstruct(model: nn.Module, x: Tensor) -> Tensor:
    """E[x | z] at the posterior's mean of each datum, in its most probable class: `(N, *x_shape)`."""
    return images_of(model, latent_codes(model, x))


def interpolate(
    model: nn.Module, start: Tensor, end: Tensor, steps: int = 10, site: str | None = None
) -> Tensor:
    """Decode the straight lines in latent space between data: `(N, steps, *x_shape)`.

    Where images depend on a class (M2), it is that of the nearer end.

    Args:
        model: a module with the programs `model` and `guide`.
        start: `(N, *x_shape)`.
        end: `(N, *x_shape)`.
        steps: points on each line, both ends included.
        site: the latent to move, by default all.

    Raises:
        InputError: not as many ends as starts, fewer than 2 steps, or no such latent.
    """
    if start.shape != end.shape:
        raise InputError(
            f"the lines start at data of shape {tuple(start.shape)} and end at {tuple(end.shape)}: "
            "give one end for each start."
        )
    if steps < 2:
        raise InputError(f"steps is {steps}; a line needs at least its 2 ends.")
    along = torch.linspace(0, 1, steps)
    ends = torch.stack([start, end], 1).flatten(0, 1)
    return _mixtures(model, ends, torch.stack([1 - along, along], -1), site)


def interpolate_grid(model: nn.Module, corners: Tensor, steps: int = 10, site: str | None = None) -> Tensor:
    """Decode the square in latent space between four data: `(steps, steps, *x_shape)`.

    Args:
        model: a module with the programs `model` and `guide`.
        corners: `(4, *x_shape)`: top left, top right, bottom left, bottom right.
        steps: points on each side, both ends included.
        site: the latent to move, by default all.

    Raises:
        InputError: not 4 corners, fewer than 2 steps, or no such latent.
    """
    if len(corners) != 4:
        raise InputError(f"there are {len(corners)} images; a square has 4 corners.")
    if steps < 2:
        raise InputError(f"steps is {steps}; a side needs at least its 2 ends.")
    along = torch.linspace(0, 1, steps)
    down, right = (side.flatten() for side in torch.meshgrid(along, along, indexing="ij"))
    up, left = 1 - down, 1 - right
    weights = torch.stack([up * left, up * right, down * left, down * right], -1)
    return _mixtures(model, corners, weights, site)[0].unflatten(0, (steps, steps))


def _mixtures(model: nn.Module, x: Tensor, weights: Tensor, site: str | None) -> Tensor:
    """Decode P weighted means, weights `(P, K)`, of the codes of each K data: `(N, P, *x_shape)`."""
    codes = latent_codes(model, x)
    if site is not None:
        codes = _without_descendants(model, codes, code_site(model, site))
    points = {}
    for name, values in codes.items():
        groups = values.unflatten(0, (-1, weights.shape[1]))
        if values.is_floating_point():
            mixed = torch.einsum("pk,nk...->np...", weights.to(values), groups)
        else:
            mixed = groups[:, weights.argmax(-1)]
        points[name] = mixed.flatten(0, 1)
    return images_of(model, points).unflatten(0, (-1, len(weights)))


def traverse(
    model: nn.Module,
    x: Tensor,
    dimensions: Sequence[int] | None = None,
    levels: Sequence[float] = LEVELS,
    site: str | None = None,
) -> Tensor:
    """Move a datum's code along one dimension at a time: `(D, Q, *x_shape)`.

    In row d, dimension d stands at the prior's quantiles, and all else at the datum's posterior mean.

    Args:
        model: a module with the programs `model` and `guide`.
        x: one datum, `(*x_shape,)`.
        dimensions: those to move, D of them, counted from 0; by default all.
        levels: of the quantiles, Q of them.
        site: the latent to move.

    Raises:
        InputError: no such latent or dimension, or no prior.
    """
    site = prior_site(model, site)
    codes = _without_descendants(model, latent_codes(model, x[None]), site)
    size = codes[site].shape[-1]
    dimensions = range(size) if dimensions is None else dimensions
    if unknown := [d for d in dimensions if not 0 <= d < size]:
        raise InputError(f"there is no dimension {unknown[0]}; '{site}' has {size}, counted from 0.")
    shape = (len(dimensions), len(levels))
    codes = {
        name: values.repeat(shape[0] * shape[1], *[1] * (values.dim() - 1))
        for name, values in codes.items()
    }
    quantiles, moved = prior_quantiles(model, levels, site), codes[site].view(*shape, size)
    for row, dimension in enumerate(dimensions):
        moved[row, :, dimension] = quantiles[:, dimension]
    return images_of(model, codes).unflatten(0, shape)


def analogies(model: nn.Module, x: Tensor) -> Tensor:
    """Each datum's style in every class: `(N, C, *x_shape)` (Kingma et al. 2014, figure 1).

    The latents stand where the guide puts them for the datum, but the class is set to 0, 1, ..., C - 1.

    Raises:
        InputError: the model has no classes, or x does not depend on them.
    """
    classes, sites = num_classes(model), sites_of(model)
    label = str(sites.label)
    if sites.data not in sites.descendants(label):
        raise InputError(
            f"in a {type(model).__name__} the class '{label}' is predicted from the latents and is no part "
            "of what makes x, so there is no style apart from it: draw class_samples instead."
        )
    codes = _without_descendants(model, latent_codes(model, x), label)
    rows = {name: values.repeat_interleave(classes, 0) for name, values in codes.items()}
    rows[label] = torch.arange(classes).repeat(len(x))
    return images_of(model, rows).unflatten(0, (len(x), classes))


def _without_descendants(model: nn.Module, codes: Codes, changed: str) -> Codes:
    """The codes that still hold when one of them is changed."""
    gone = sites_of(model).descendants(changed)
    return {name: values for name, values in codes.items() if name not in gone}
