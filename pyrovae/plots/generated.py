"""Figures of images that a model generates. `pyrovae.generation` makes the images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.plots.classes import shown_name
from pyrovae.plots.grids import grid_beside, image_grid


def samples(images: Tensor, columns: int = 10, axes: Axes | None = None) -> Figure:
    """Draw samples in a grid.

    Args:
        images: means of p(x | latents), `(N, C, H, W)`, for latents drawn from the prior.
        columns: the number of images in a row.
        axes: the axes to draw in; by default those of a new figure.

    Raises:
        InputError: `images` are not images.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    blank = images.new_ones(rows * columns - len(images), *images.shape[1:])
    grid = torch.cat([images, blank]).unflatten(0, (rows, columns))
    return image_grid(grid, "Samples: means of p(x | latents), latents drawn from the prior", axes=axes)


def reconstructions(
    x: Tensor, reconstructed: Tensor, original: Tensor | None = None, axes: Axes | None = None
) -> Figure:
    """Draw images above their reconstructions.

    Args:
        x: the images that the model was given, `(N, C, H, W)`.
        reconstructed: their reconstructions E[x | z], `(N, C, H, W)`.
        original: the images before they were binarised, `(N, C, H, W)`, drawn on top; by default none.
        axes: the axes to draw in; by default those of a new figure.

    Raises:
        InputError: `x` are not images.
    """
    rows = {"x": x, "E[x | z]": reconstructed}
    if original is not None:
        rows = {"grey image": original, "binarised x": x, "E[x | z]": reconstructed}
    return image_grid(torch.stack([*rows.values()]), "Reconstructions of test images", [*rows], axes)


def interpolations(lines: Tensor, axes: Axes | None = None, class_jumps: bool = False) -> Figure:
    """Draw decoded straight lines in latent space, each from one datum (left) to another (right).

    Args:
        lines: images `(N, steps, C, H, W)`, from `generation.interpolate`.
        axes: the axes to draw in; by default those of a new figure.
        class_jumps: whether the images depend on a class, which changes halfway. The title then says so.

    Raises:
        InputError: `lines` are not images.
    """
    title = "Interpolation in latent space between two test images, reconstructed at both ends"
    return image_grid(lines, title + class_jumps * "\nThe class y is the nearer end's", axes=axes)


def interpolation_grid(images: Tensor, class_jumps: bool = False) -> Figure:
    """Draw the decoded square in latent space between four data at its corners.

    Args:
        images: images `(steps, steps, C, H, W)`, from `generation.interpolate_grid`.
        class_jumps: whether the images depend on a class, which is the nearest corner's. The title then
            says so.

    Raises:
        InputError: `images` are not images.
    """
    title = "Interpolation in latent space between four test images (the corners)"
    return image_grid(images, title + class_jumps * "\nThe class y is the nearest corner's")


def manifold(images: Tensor, site: str = "z", label: str | None = None) -> Figure:
    """Draw the images that a plane of latents decodes to.

    Args:
        images: images `(steps, steps, C, H, W)`, from `generation.manifold`.
        site: the name of the latent's site.
        label: the name of the class that the images are given; by default they depend on no class.

    Raises:
        InputError: `images` are not images.
    """
    given = f"E[x | {site}]" if label is None else f"E[x | {site}, y = {shown_name(label)}]"
    figure = image_grid(images, f"The latent plane: {given} at the prior's quantiles, 1% to 99%")
    (axes,) = figure.axes
    axes.set_xlabel(f"{site}[0] grows to the right")
    axes.set_ylabel(f"{site}[1] grows upwards")
    return figure


def traversals(
    images: Tensor, x: Tensor, reconstructed: Tensor, row_labels: Sequence[str], levels: Sequence[float]
) -> Figure:
    """Draw a datum, and beside it the images along one latent dimension in each row.

    Args:
        images: images `(D, Q, C, H, W)` for D dimensions and Q quantiles of the prior, from
            `generation.traverse`.
        x: the datum before it was binarised, `(C, H, W)`.
        reconstructed: its reconstruction at the posterior mean, `(C, H, W)`.
        row_labels: the names of the D dimensions.
        levels: the levels of the Q quantiles, in [0, 1].

    Raises:
        InputError: `images` are not images.
    """
    blank = torch.ones_like(images[:, 0])
    datum = torch.cat([torch.stack([x, reconstructed]), blank])[: max(2, len(images)), None]
    columns = [f"{100 * level:g}%" for level in levels]
    figure = grid_beside(datum, images, row_labels, columns, left_rows=["image", "E[x | z]"])
    figure.suptitle(
        "Latent traversals: in each row one dimension moves through the prior's quantiles,\n"
        "the others stay at the posterior mean of the test image on the left",
        fontsize=10,
    )
    return figure


def class_samples(images: Tensor, class_names: Sequence[str]) -> Figure:
    """Draw samples given their class, a row for each class.

    Args:
        images: images `(C, N, channels, H, W)` of C classes, from `generation.class_samples`.
        class_names: the names of the C classes.

    Raises:
        InputError: `images` are not images.
    """
    title = "Samples given the class: means of p(x | latents), latents drawn from p(z | y)"
    return image_grid(images, title, [*map(shown_name, class_names)])


def analogies(x: Tensor, images: Tensor, class_names: Sequence[str]) -> Figure:
    """Draw data, and beside each its style in every class.

    Args:
        x: the data before they were binarised, `(N, channels, H, W)`.
        images: images `(N, C, channels, H, W)` of C classes, from `generation.analogies`.
        class_names: the names of the C classes.

    Raises:
        InputError: `images` are not images.
    """
    names = [*map(shown_name, class_names)]
    figure = grid_beside(x[:, None], images, [], names, left_column="image")
    figure.suptitle("Analogies: a test image, and its style z in every class y: E[x | y, z]", fontsize=10)
    return figure
