"""The command line's looking tools: each draws a figure of a run into its folder, figures/NAME.png."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae import generation, plots
from pyrovae.diagrams import PlateDiagram, plate_diagram
from pyrovae.errors import InputError
from pyrovae.evaluation import class_probabilities
from pyrovae.generation import (
    draw_latents,
    latent_means,
    num_classes,
    posterior_draws,
    prior_density,
    prior_site,
)
from pyrovae.recipes import runs as runs

RunFolder = Annotated[Path, typer.Argument(help="A run folder, as written by 'train'.")]
Seed = Annotated[int, typer.Option(help="Seed of the random draws.")]
Site = Annotated[
    str | None,
    typer.Option(help="The latent, by its site's name; by default the one next to the data (m1m2: z1)."),
]
Limit = Annotated[int, typer.Option(help="Use at most so many test images.")]

_commands: list[tuple[Callable[..., None], str, str]] = []


def register(app: typer.Typer) -> None:
    """Add every command of this module to the app."""
    for function, name, example in _commands:
        app.command(name, epilog=f"Example: pyrovae {name} {example}")(function)


def _command(name: str, example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def note(function: Callable[..., None]) -> Callable[..., None]:
        _commands.append((function, name, example))
        return function

    return note


# What the model makes


@_command("sample", "runs/first --count 100")
def sample(
    run: RunFolder,
    count: Annotated[int, typer.Option(help="How many images.")] = 100,
    seed: Seed = 0,
) -> None:
    """Draw z from the prior, decode it, and write figures/samples.png."""
    opened = runs.Run.open(run)
    draw(opened, plots.samples(generation.sample_images(opened.model, count, seed)), "samples")


@_command("reconstruct", "runs/first")
def reconstruct(
    run: RunFolder, count: Annotated[int, typer.Option(help="How many test images.")] = 10
) -> None:
    """Encode and decode test images, and write figures/reconstructions.png."""
    opened = runs.Run.open(run)
    draw(opened, plots.reconstructions(*_reconstructions(opened, count)), "reconstructions")


@_command("interpolate", "runs/first --count 5 --steps 12")
def interpolate(
    run: RunFolder,
    count: Annotated[int, typer.Option(help="How many pairs of test images.")] = 5,
    steps: Annotated[int, typer.Option(help="Images on each line.")] = 12,
    site: Annotated[str | None, typer.Option(help="The latent to move; by default all.")] = None,
) -> None:
    """Decode straight lines between test images, and write figures/interpolation.png."""
    opened = runs.Run.open(run)
    x = _test_images(opened, 2 * count)
    lines = generation.interpolate(opened.model, x[::2], x[1::2], steps, site)
    draw(opened, plots.interpolations(lines, class_jumps=_class_jumps(opened, site)), "interpolation", site)


@_command("interpolation-grid", "runs/first --first 8 --steps 9")
def interpolation_grid(
    run: RunFolder,
    first: Annotated[int, typer.Option(help="The corners are this test image and the next three.")] = 0,
    steps: Annotated[int, typer.Option(help="Images on each side.")] = 9,
    site: Annotated[str | None, typer.Option(help="The latent to move; by default all.")] = None,
) -> None:
    """Decode the square between four test images, and write figures/interpolation_grid.png."""
    opened = runs.Run.open(run)
    corners = _test_images(opened, 4, first)
    images = generation.interpolate_grid(opened.model, corners, steps, site)
    figure = plots.interpolation_grid(images, _class_jumps(opened, site))
    draw(opened, figure, "interpolation_grid", site)


@_command("manifold", "runs/plane --steps 20")
def manifold(
    run: RunFolder,
    steps: Annotated[int, typer.Option(help="Images on each side.")] = 15,
    label: Annotated[
        int | None, typer.Option(help="The class, for a model whose images depend on one (m2).")
    ] = None,
    site: Site = None,
) -> None:
    """Decode a 2-D latent space at the prior's quantiles, and write figures/manifold.png."""
    opened = runs.Run.open(run)
    images = generation.manifold(opened.model, steps, label, site)
    name = None if label is None else _class_names(opened)[label]
    draw(opened, plots.manifold(images, prior_site(opened.model, site), name), "manifold", site)


@_command("traverse", "runs/first --image 3 --dimensions 6")
def traverse(
    run: RunFolder,
    image: Annotated[int, typer.Option(help="Which test image to start from, counted from 0.")] = 0,
    dimensions: Annotated[
        int, typer.Option(help="Show so many, those first whose posterior means vary most over images.")
    ] = 10,
    site: Site = None,
) -> None:
    """Move one latent dimension at a time, and write figures/traversals.png."""
    opened = runs.Run.open(run)
    model, name = opened.model, prior_site(opened.model, site)
    x = opened.encoded(_originals(opened, 1, image))
    shown = _most_active(latent_means(model, _some_encoded(opened, 1000), name), dimensions)
    figure = plots.traversals(
        generation.traverse(model, x[0], shown, site=name),
        _originals(opened, 1, image)[0],
        generation.reconstruct(model, x)[0],
        _dimension_names(name, shown),
        generation.LEVELS,
    )
    draw(opened, figure, "traversals", site)


@_command("class-samples", "runs/m2 --count 10")
def class_samples(
    run: RunFolder,
    count: Annotated[int, typer.Option(help="How many images of each class.")] = 10,
    candidates: Annotated[
        int, typer.Option(help="Draws for each image, where the class is predicted from z (pcvae).")
    ] = 100,
    seed: Seed = 0,
) -> None:
    """Draw images of each class, and write figures/class_samples.png."""
    opened = runs.Run.open(run)
    images = generation.class_samples(opened.model, count, candidates, seed)
    draw(opened, plots.class_samples(images, _class_names(opened)), "class_samples")


@_command("analogies", "runs/m2 --count 8")
def analogies(
    run: RunFolder, count: Annotated[int, typer.Option(help="How many test images.")] = 10
) -> None:
    """Show the style of test images in every class, and write figures/analogies.png."""
    opened = runs.Run.open(run)
    x = _originals(opened, count)
    images = generation.analogies(opened.model, opened.encoded(x))
    draw(opened, plots.analogies(x, images, _class_names(opened)), "analogies")


# Latent space


@_command("latent", "runs/first --by tsne")
def latent(
    run: RunFolder,
    by: Annotated[str, typer.Option(help="pca, tsne, or direct (2-D latents as they are).")] = "pca",
    limit: Limit = 2000,
    site: Site = None,
    seed: Seed = 0,
) -> None:
    """Draw posterior means of test images by class, and write figures/latent_pca.png (_tsne, _direct)."""
    if by not in ("pca", "tsne", "direct"):
        raise InputError(f"--by is {by!r}; it must be pca, tsne or direct.")
    opened = runs.Run.open(run)
    z = latent_means(opened.model, _some_encoded(opened, limit), site)
    y = opened.images.y_test
    points: Any = (z, None if y is None else y[: len(z)], _class_names(opened) if y is not None else ())
    if by == "pca":
        figure = plots.latent_pca(*points)
    elif by == "tsne":
        figure = plots.latent_tsne(*points, seed=seed)
    else:
        figure = plots.latent_space(*points)
    draw(opened, figure, f"latent_{by}", site)


@_command("histograms", "runs/first --dimensions 6")
def histograms(
    run: RunFolder,
    dimensions: Annotated[
        int, typer.Option(help="Show so many, those first that tell the classes apart best.")
    ] = 4,
    limit: Limit = 10_000,
    site: Site = None,
    seed: Seed = 0,
) -> None:
    """Draw latent dimensions by class against the prior, and write figures/class_histograms.png."""
    opened = runs.Run.open(run)
    model, name = opened.model, prior_site(opened.model, site)
    x, y = _some_test_images(opened, limit), _test_classes(opened, limit)
    z = posterior_draws(model, x, name, seed)
    shown = _most_telling(latent_means(model, x, name), y, dimensions)
    points = _axis(z[:, shown])
    density = prior_density(model, points, name)[:, shown]
    names = _dimension_names(name, shown)
    figure = plots.class_histograms(z[:, shown], y, points, density, names, _class_names(opened))
    draw(opened, figure, "class_histograms", site)


@_command("aggregate", "runs/first --dimensions 7")
def aggregate(
    run: RunFolder,
    dimensions: Annotated[
        int, typer.Option(help="Show so many: the most active ones, and the least active one.")
    ] = 5,
    limit: Limit = 10_000,
    site: Site = None,
    seed: Seed = 0,
) -> None:
    """Draw the aggregated posterior against the prior, and write figures/aggregated_posterior.png."""
    opened = runs.Run.open(run)
    model, name = opened.model, prior_site(opened.model, site)
    x = _some_test_images(opened, limit)
    z, means = posterior_draws(model, x, name, seed), latent_means(model, x, name)
    ranked = _most_active(means, means.shape[1])
    shown = ranked[: max(1, dimensions - 1)] + ranked[-1:] if dimensions < len(ranked) else ranked
    points = _axis(z[:, shown])
    figure = plots.aggregated_posterior(
        z[:, shown],
        means[:, shown],
        draw_latents(model, len(z), seed=seed)[name][:, shown],
        points,
        prior_density(model, points, name)[:, shown],
        _dimension_names(name, shown),
    )
    draw(opened, figure, "aggregated_posterior", site)


# How it learned, and what it takes for what


@_command("curves", "runs/first")
def curves(run: RunFolder) -> None:
    """Draw the bound and the classification terms by epoch, and write figures/learning_curves.png."""
    opened = runs.Run.open(run)
    labels = plots.term_labels(opened.model)
    draw(opened, plots.learning_curves(opened.history, labels=labels), "learning_curves")


@_command("confusion", "runs/m2")
def confusion(run: RunFolder, limit: Limit = 10_000) -> None:
    """Classify test images, and write figures/confusion_matrix.png."""
    opened = runs.Run.open(run)
    y, model = _test_classes(opened, limit), opened.model
    num_classes(model)
    predicted = class_probabilities(model, _some_encoded(opened, limit))
    draw(opened, plots.confusion_matrix(y, predicted, _class_names(opened)), "confusion_matrix")


@_command("overview", "runs/first")
def overview(run: RunFolder) -> None:
    """Write figures/overview.png: plate diagram, learning curves, samples, reconstructions."""
    opened = runs.Run.open(run)
    title = f"{opened.config.model.upper()} on {Path(opened.config.data).name}"
    if metrics := opened.metrics:
        title += (
            f": test log p(x) = {metrics['log_likelihood']:.3f} "
            f"± {metrics['mean_std_error']:.3f} nats (K = {metrics['num_samples']})"
        )
    page = plots.overview(
        diagram_of(opened),
        opened.history,
        generation.sample_images(opened.model, 50),
        _reconstructions(opened, min(10, len(opened.images.x_test))),
        title,
        plots.term_labels(opened.model),
    )
    draw(opened, page, "overview")


# What the commands have in common


def draw(run: runs.Run, figure: Figure, name: str, site: str | None = None) -> None:
    """Write a figure, of a certain latent if one was asked for, into the run's folder, and say so."""
    name = name if site is None else f"{name}_{site}"
    print(f"written: {plots.save(figure, run.folder / 'figures' / f'{name}.png')}")


def diagram_of(run: runs.Run) -> PlateDiagram:
    """The plate diagram of the run's program on its training data."""
    x, y, _ = run.training_data(run.images)
    model = run.new_model(run.images)
    classes = () if y is None else (y,)
    return plate_diagram(model, x, *classes)


def _originals(run: runs.Run, count: int, first: int = 0) -> Tensor:
    """`count` test images as they are, from the one counted `first`, from 0."""
    x = run.images.x_test
    if not 1 <= count <= len(x):
        raise InputError(f"{count} test images were asked for; there are {len(x)}, and 1 is the least.")
    if not 0 <= first <= len(x) - count:
        raise InputError(f"test image {first} was asked for; the last one to begin at is {len(x) - count}.")
    return x[first : first + count]


def _test_images(run: runs.Run, count: int, first: int = 0) -> Tensor:
    """`count` test images as the model is trained on them, binarised if need be."""
    _originals(run, count, first)
    return run.presented(run.images.x_test)[first : first + count]


def _some_test_images(run: runs.Run, limit: int) -> Tensor:
    return _test_images(run, _at_most(run, limit))


def _some_encoded(run: runs.Run, limit: int) -> Tensor:
    """At most so many test images as they are encoded to be classified."""
    return run.encoded(_originals(run, _at_most(run, limit)))


def _at_most(run: runs.Run, limit: int) -> int:
    if limit < 1:
        raise InputError(f"limit is {limit}; it must be at least 1.")
    return min(limit, len(run.images.x_test))


def _test_classes(run: runs.Run, limit: int) -> Tensor:
    if run.images.y_test is None:
        raise InputError(
            f"{run.images.name} has no classes to tell apart: give a data set with labels "
            "(pyrovae train --help, option --data)."
        )
    return run.images.y_test[:limit]


def _class_names(run: runs.Run) -> list[str]:
    return [*run.images.class_names]


def _dimension_names(site: str, dimensions: list[int]) -> list[str]:
    return [f"{site}[{dimension}]" for dimension in dimensions]


def _axis(z: Tensor) -> Tensor:
    """Points on the axis of a latent, as far as draws of it go."""
    return torch.linspace(min(-3.5, float(z.min())), max(3.5, float(z.max())), 200)


def _most_active(means: Tensor, count: int) -> list[int]:
    """The dimensions in which the posterior means vary most over data, largest first."""
    return _ranked(means.var(0), count)


def _most_telling(means: Tensor, y: Tensor, count: int) -> list[int]:
    """The dimensions in which most of the variance of posterior means lies between the classes."""
    between = torch.zeros(means.shape[1])
    for label in y.unique():
        members = means[y == label]
        between += len(members) / len(means) * (members.mean(0) - means.mean(0)).square()
    return _ranked(between / means.var(0, unbiased=False).clamp(min=1e-12), count)


def _ranked(scores: Tensor, count: int) -> list[int]:
    if count < 1:
        raise InputError(f"dimensions is {count}; at least 1 must be shown.")
    order: list[int] = scores.argsort(descending=True)[:count].tolist()
    return order


def _class_jumps(run: runs.Run, site: str | None) -> bool:
    return bool(generation.classes_behind(run.model, site))


def _reconstructions(run: runs.Run, count: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Images as the model sees them, their reconstructions, and what they were before, if that differs."""
    x = _test_images(run, count)
    original = run.images.x_test[:count] if run.config.pixels in ("static", "dynamic") else None
    return run.shown(x), generation.reconstruct(run.model, x), original
