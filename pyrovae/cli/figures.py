"""The commands that draw. Each writes a figure into the run folder, as figures/NAME.png."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from pyrovae.cli.parameters import NONE_OWN, DataFile, Limit, LimitSeed, Own, RunFolder, Seed, Site
from pyrovae.errors import InputError, check_counts, one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from pyrovae.diagrams.diagram import PlateDiagram
    from pyrovae.recipes import Run

AnySite = Annotated[
    str | None, Parameter(help="The name of the latent site to move. By default all latents move.")
]

# Images that the model makes


def sample(
    run: RunFolder,
    /,
    *,
    count: Annotated[int, Parameter(help="The number of images.")] = 100,
    seed: Seed = 0,
    data: DataFile = None,
    own: Own = NONE_OWN,
) -> None:
    """Draw z from the prior, decode it, and write figures/samples.png.

    Example: pyrovae sample runs/first --count 100
    """
    from pyrovae import generation, plots

    opened = own.open(run, data)
    images = generation.only_site(
        generation.sample_images(opened.pair, count, seed, given=_given(opened, count))
    )
    draw(opened, plots.samples(images), "samples")


def reconstruct(
    run: RunFolder,
    /,
    *,
    count: Annotated[int, Parameter(help="The number of test images.")] = 10,
    data: DataFile = None,
    own: Own = NONE_OWN,
) -> None:
    """Encode and decode test images, and write figures/reconstructions.png.

    Example: pyrovae reconstruct runs/first
    """
    from pyrovae import plots

    opened = own.open(run, data)
    draw(opened, plots.reconstructions(*_reconstructions(opened, count)), "reconstructions")


def interpolate(
    run: RunFolder,
    /,
    *,
    count: Annotated[int, Parameter(help="The number of pairs of test images.")] = 5,
    steps: Annotated[int, Parameter(help="The number of images on each line.")] = 12,
    site: AnySite = None,
    data: DataFile = None,
    own: Own = NONE_OWN,
) -> None:
    """Decode straight lines between test images, and write figures/interpolation.png.

    Example: pyrovae interpolate runs/first --count 5 --steps 12
    """
    from pyrovae import generation, plots

    opened = own.open(run, data)
    x, given = _test_images(opened, 2 * count), _given(opened, count, step=2)
    lines = generation.only_site(
        generation.interpolate(opened.pair, x[::2], x[1::2], steps, site, given=given)
    )
    draw(opened, plots.interpolations(lines, class_jumps=_class_jumps(opened, site)), "interpolation", site)


def interpolation_grid(
    run: RunFolder,
    /,
    *,
    first: Annotated[
        int,
        Parameter(
            help="The test image in the first corner, counted from 0. The next three are the others."
        ),
    ] = 0,
    steps: Annotated[int, Parameter(help="The number of images on each side.")] = 9,
    site: AnySite = None,
    data: DataFile = None,
    own: Own = NONE_OWN,
) -> None:
    """Decode the square between four test images, and write figures/interpolation_grid.png.

    Example: pyrovae interpolation-grid runs/first --first 8 --steps 9
    """
    from pyrovae import generation, plots

    opened = own.open(run, data)
    corners, given = _test_images(opened, 4, first), _given(opened, 4, first)
    images = generation.only_site(
        generation.interpolate_grid(opened.pair, corners, steps, site, given=given)
    )
    figure = plots.interpolation_grid(images, _class_jumps(opened, site))
    draw(opened, figure, "interpolation_grid", site)


def manifold(
    run: RunFolder,
    /,
    *,
    steps: Annotated[int, Parameter(help="The number of images on each side.")] = 15,
    label: Annotated[
        str | None, Parameter(help="The class by its name, for a model whose images depend on it (m2).")
    ] = None,
    site: Site = None,
    own: Own = NONE_OWN,
) -> None:
    """Decode a 2-D latent space at the prior's quantiles, and write figures/manifold.png.

    Example: pyrovae manifold runs/plane --steps 20
    """
    from pyrovae import generation, plots
    from pyrovae.generation import prior_site

    opened = own.open(run)
    given = _given(opened, 1)
    number = None if label is None else opened.number_of_class(label)
    images = generation.only_site(generation.manifold(opened.pair, steps, number, site, given=given))
    figure = plots.manifold(images, prior_site(opened.pair, site, given=given), label)
    draw(opened, figure, "manifold", site)


def traverse(
    run: RunFolder,
    /,
    *,
    image: Annotated[int, Parameter(help="The test image to start from, counted from 0.")] = 0,
    dimensions: Annotated[
        int,
        Parameter(
            help="The number of dimensions. Those with the most variable posterior means come first."
        ),
    ] = 10,
    site: Site = None,
    data: DataFile = None,
    own: Own = NONE_OWN,
) -> None:
    """Move one latent dimension at a time, and write figures/traversals.png.

    Example: pyrovae traverse runs/first --image 3 --dimensions 6
    """
    from pyrovae import generation, plots
    from pyrovae.evaluation import most_active_dimensions
    from pyrovae.generation import latent_means, prior_site
    from pyrovae.recipes.run_data import Choice

    opened = own.open(run, data)
    original, given = _originals(opened, 1, image), _given(opened, 1, image)
    pair, name = opened.pair, prior_site(opened.pair, site, given=given)
    rows = Choice.among(len(opened.scored.x), 1000).rows
    x, others = opened.presentation.encoded(original), opened.presentation.encoded(opened.scored.x)[rows]
    means = latent_means(pair, others, name, given=_given_at(opened, rows))
    shown = most_active_dimensions(means, dimensions)
    figure = plots.traversals(
        generation.only_site(generation.traverse(pair, x[0], shown, site=name, given=given)),
        original[0],
        generation.only_site(generation.reconstruct(pair, x, given=given))[0],
        _dimension_names(name, shown),
        generation.LEVELS,
    )
    draw(opened, figure, "traversals", site)


def class_samples(
    run: RunFolder,
    /,
    *,
    count: Annotated[int, Parameter(help="The number of images of each class.")] = 10,
    candidates: Annotated[
        int,
        Parameter(
            help="The number of draws for each image, for a model whose z predicts the class (pcvae)."
        ),
    ] = 100,
    seed: Seed = 0,
    own: Own = NONE_OWN,
) -> None:
    """Draw images of each class, and write figures/class_samples.png.

    Example: pyrovae class-samples runs/m2 --count 10
    """
    from pyrovae import generation, plots

    opened = own.open(run)
    images = generation.only_site(generation.class_samples(opened.pair, count, candidates, seed))
    draw(opened, plots.class_samples(images, opened.class_names), "class_samples")


def analogies(
    run: RunFolder,
    /,
    *,
    count: Annotated[int, Parameter(help="The number of test images.")] = 10,
    data: DataFile = None,
    own: Own = NONE_OWN,
) -> None:
    """Decode the style of test images with every class, and write figures/analogies.png.

    Example: pyrovae analogies runs/m2 --count 8
    """
    from pyrovae import generation, plots

    opened = own.open(run, data)
    x = _originals(opened, count)
    images = generation.only_site(generation.analogies(opened.pair, opened.presentation.encoded(x)))
    draw(opened, plots.analogies(x, images, opened.class_names), "analogies")


# Latent space


def latent(
    run: RunFolder,
    /,
    *,
    by: Annotated[
        Literal["pca", "tsne", "direct"],
        Parameter(help="The projection to the plane. direct shows 2-D latents as they are."),
    ] = "pca",
    limit: Limit = 2000,
    limit_seed: LimitSeed = 0,
    site: Site = None,
    seed: Seed = 0,
    data: DataFile = None,
    own: Own = NONE_OWN,
) -> None:
    """Draw posterior means of test images by class, and write figures/latent_pca.png (_tsne, _direct).

    Example: pyrovae latent runs/first --by tsne
    """
    from pyrovae import plots
    from pyrovae.generation import latent_means

    opened = own.open(run, data)
    rows = _chosen(opened, limit, limit_seed)
    x, y = opened.presentation.encoded(opened.scored.x)[rows], opened.scored.y
    z = latent_means(opened.pair, x, site, given=_given_at(opened, rows))
    points: Any = (z, None, ()) if y is None else (z, y[rows], opened.class_names)
    if by == "pca":
        figure = plots.latent_pca(*points)
    elif by == "tsne":
        figure = plots.latent_tsne(*points, seed=seed)
    else:
        figure = plots.latent_space(*points)
    draw(opened, figure, f"latent_{by}", site)


def histograms(
    run: RunFolder,
    /,
    *,
    dimensions: Annotated[
        int, Parameter(help="The number of dimensions. Those that separate the classes best come first.")
    ] = 4,
    limit: Limit = 10_000,
    limit_seed: LimitSeed = 0,
    site: Site = None,
    seed: Seed = 0,
    data: DataFile = None,
    own: Own = NONE_OWN,
) -> None:
    """Draw latent dimensions by class against the prior, and write figures/class_histograms.png.

    Example: pyrovae histograms runs/first --dimensions 6
    """
    from pyrovae import plots
    from pyrovae.evaluation import most_telling_dimensions
    from pyrovae.generation import latent_means, posterior_draws, prior_density, prior_site

    opened = own.open(run, data)
    pair, name = opened.pair, prior_site(opened.pair, site)
    classes = _test_classes(opened)
    rows = _chosen(opened, limit, limit_seed)
    x, y = opened.presentation.fixed(opened.scored.x)[rows], classes[rows]
    z = posterior_draws(pair, x, name, seed)
    shown = most_telling_dimensions(latent_means(pair, x, name), y, dimensions)
    points = plots.latent_axis(z[:, shown])
    density = prior_density(pair, points, name)[:, shown]
    names = _dimension_names(name, shown)
    figure = plots.class_histograms(z[:, shown], y, points, density, names, opened.class_names)
    draw(opened, figure, "class_histograms", site)


def aggregate(
    run: RunFolder,
    /,
    *,
    dimensions: Annotated[
        int, Parameter(help="The number of dimensions: the most active ones, and the least active one.")
    ] = 5,
    limit: Limit = 10_000,
    limit_seed: LimitSeed = 0,
    site: Site = None,
    seed: Seed = 0,
    data: DataFile = None,
    own: Own = NONE_OWN,
) -> None:
    """Draw the aggregated posterior against the prior, and write figures/aggregated_posterior.png.

    Example: pyrovae aggregate runs/first --dimensions 7
    """
    from pyrovae import plots
    from pyrovae.evaluation import most_active_dimensions
    from pyrovae.generation import draw_latents, latent_means, posterior_draws, prior_density, prior_site

    check_counts(dimensions=dimensions)
    opened = own.open(run, data)
    pair, name = opened.pair, prior_site(opened.pair, site)
    x = opened.presentation.fixed(opened.scored.x)[_chosen(opened, limit, limit_seed)]
    z, means = posterior_draws(pair, x, name, seed), latent_means(pair, x, name)
    ranked = most_active_dimensions(means, means.shape[1])
    shown = ranked[: max(1, dimensions - 1)] + ranked[-1:] if dimensions < len(ranked) else ranked
    points = plots.latent_axis(z[:, shown])
    figure = plots.aggregated_posterior(
        z[:, shown],
        means[:, shown],
        draw_latents(pair, len(z), seed=seed)[name][:, shown],
        points,
        prior_density(pair, points, name)[:, shown],
        _dimension_names(name, shown),
    )
    draw(opened, figure, "aggregated_posterior", site)


# Training and classification


def curves(run: RunFolder, /, *, own: Own = NONE_OWN) -> None:
    """Draw the bound and the classification terms by epoch, and write figures/learning_curves.png.

    Example: pyrovae curves runs/first
    """
    from pyrovae import plots

    opened = own.open(run)
    draw(opened, plots.learning_curves(opened.history), "learning_curves")


def confusion(
    run: RunFolder,
    /,
    *,
    limit: Limit = 10_000,
    limit_seed: LimitSeed = 0,
    data: DataFile = None,
    own: Own = NONE_OWN,
) -> None:
    """Classify test images, and write figures/confusion_matrix.png.

    Example: pyrovae confusion runs/m2
    """
    from pyrovae import plots
    from pyrovae.evaluation import class_probabilities
    from pyrovae.generation import num_classes

    opened = own.open(run, data)
    y, pair = _test_classes(opened), opened.pair
    num_classes(pair)
    rows = _chosen(opened, limit, limit_seed)
    predicted = class_probabilities(pair, opened.presentation.encoded(opened.scored.x)[rows])
    draw(opened, plots.confusion_matrix(y[rows], predicted, opened.class_names), "confusion_matrix")


def overview(run: RunFolder, /, *, data: DataFile = None, own: Own = NONE_OWN) -> None:
    """Write figures/overview.png: plate diagram, learning curves, samples, reconstructions.

    Example: pyrovae overview runs/first
    """
    from pyrovae import generation, plots

    opened = own.open(run, data)
    title = f"{opened.config.recipe.upper()} on {Path(opened.data.data).name}"
    if opened.scored.file is not None:
        title += f", asked about {opened.scored.name}"
    if (metrics := opened.metrics) and opened.scored.file is None:
        error = metrics["mean_std_error"]  # None if it is not known, as with one draw
        limit = metrics.get("limit")
        some = "" if limit is None else f", {limit['num_data']} of {limit['of']} data"
        title += (
            f": test log p(x) = {metrics['log_likelihood']:.3f} "
            f"± {'unknown' if error is None else f'{error:.3f}'} nats (K = {metrics['num_samples']}{some})"
        )
    page = plots.overview(
        diagram_of(opened),
        opened.history,
        generation.only_site(generation.sample_images(opened.pair, 50, given=_given(opened, 50))),
        _reconstructions(opened, min(10, len(opened.scored.x))),
        title,
    )
    draw(opened, page, "overview")


COMMANDS: dict[str, Callable[..., None]] = {
    "sample": sample,
    "reconstruct": reconstruct,
    "interpolate": interpolate,
    "interpolation-grid": interpolation_grid,
    "manifold": manifold,
    "traverse": traverse,
    "class-samples": class_samples,
    "analogies": analogies,
    "latent": latent,
    "histograms": histograms,
    "aggregate": aggregate,
    "curves": curves,
    "confusion": confusion,
    "overview": overview,
}
"""The commands that draw, by name, in the order of help."""


def draw(run: Run, figure: Figure, name: str, site: str | None = None) -> None:
    """Write a figure into the run folder, and print its path.

    The path includes the name of a chosen latent, and of data other than the run's own. The file names the
    checkpoint, and these data.
    """
    from pyrovae import plots

    name = name if site is None else f"{name}_{site}"
    other = run.scored if run.asked is not None else None
    mark, source = (other.mark, other.file) if other is not None else ("", None)
    path = run.folder / "figures" / f"{name}{mark}.png"
    plots.save(figure, path, " on ".join(filter(None, (run.checkpoint, source))))
    print(f"written: {one_line(str(path))}")


def diagram_of(run: Run) -> PlateDiagram:
    """Return the plate diagram of the run's programs on its training data."""
    import torch

    from pyrovae.diagrams import plate_diagram

    try:
        x, y, _ = run.training_data()
        given = run.given(*run.training_classes())
    except InputError:  # the data have gone; others of their shape tell as much
        x = run.presentation.fixed(torch.zeros(8, *run.about.x_shape))
        classes = torch.zeros(8, dtype=torch.long)
        y = classes if run.plan.stages[-1].classes else None
        given = run.given(x, classes)
    return plate_diagram(run.plan.pair, x, *(() if y is None else (y,)), given=given)


def _originals(run: Run, count: int, first: int = 0) -> Tensor:
    """Return `count` unprepared test images. `first` is the number of the first one, counted from 0."""
    x = run.scored.x
    if not 1 <= count <= len(x):
        raise InputError(f"{count} test images were asked for; ask for 1 to {len(x)}.")
    if not 0 <= first <= len(x) - count:
        raise InputError(f"test image {first} was asked for; choose from 0 to {len(x) - count}.")
    return x[first : first + count]


def _test_images(run: Run, count: int, first: int = 0) -> Tensor:
    """Return test images as in evaluation, binarised if the model takes binary pixels."""
    _originals(run, count, first)
    return run.presentation.fixed(run.scored.x)[first : first + count]


def _given(run: Run, count: int, first: int = 0, step: int = 1) -> Any:
    """Return what is given to a conditional model beside `count` test images, which begin anew."""
    import torch

    if run.plan.stages[-1].given is None:  # nor are data needed, then
        return None
    return _given_at(run, (first + step * torch.arange(count)) % len(run.scored.x))


def _given_at(run: Run, rows: Tensor) -> Any:
    """Return what is given to a conditional model beside the test images of these rows."""
    if run.plan.stages[-1].given is None:
        return None
    x, y = run.scored.x, run.scored.y
    return run.given(run.presentation.encoded(x[rows]), None if y is None else y[rows])


def _chosen(run: Run, limit: int, seed: int) -> Tensor:
    """Return the rows of at most `limit` test images, and say so if these are not all."""
    from pyrovae.recipes.run_data import Choice

    choice = Choice.among(len(run.scored.x), limit, seed)
    if not choice.is_all:
        print(f"shown: {choice}")
    return choice.rows


def _test_classes(run: Run) -> Tensor:
    if run.scored.y is None:
        raise InputError(
            f"{run.scored.name} has no classes to tell apart: train on a data set with classes "
            "(pyrovae train MODEL --help, option --data)."
        )
    return run.scored.y


def _dimension_names(site: str, dimensions: list[int]) -> list[str]:
    return [f"{site}[{dimension}]" for dimension in dimensions]


def _class_jumps(run: Run, site: str | None) -> bool:
    from pyrovae import generation

    return bool(generation.classes_behind(run.pair, site, given=_given(run, 1)))


def _reconstructions(run: Run, count: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return images as the model gets them, their reconstructions, and the originals if they differ."""
    from pyrovae import generation

    x = _test_images(run, count)
    original = run.scored.x[:count] if run.presentation.changes_pixels else None
    images = generation.only_site(generation.reconstruct(run.pair, x, given=_given(run, count)))
    return run.presentation.shown(x), images, original
