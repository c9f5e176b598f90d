"""The commands that draw. Each writes a figure into the run folder, as figures/NAME.png."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from pyrovae.cli.parameters import NONE_OWN, DataFile, Limit, LimitSeed, Own, RunFolder, Seed, Site
from pyrovae.errors import InputError, check_counts, one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from pyrovae.diagrams.diagram import PlateDiagram
    from pyrovae.plots.completing import Complete
    from pyrovae.recipes import Run

AnySite = Annotated[
    str | None, Parameter(help="The name of the latent site to move. By default all latents move.")
]

# Images that the model makes


def sample(
    run: RunFolder,
    /,
    *,
    count: Annotated[
        int | None,
        Parameter(help="The number of draws. [default: 100 images, or 1,000 vectors]"),
    ] = None,
    draws: Annotated[
        bool, Parameter(help="Draw images from p(x | z) rather than show its means.", negative="")
    ] = False,
    seed: Seed = 0,
    data: DataFile = None,
    own: Own = NONE_OWN,
) -> None:
    """Draw z from the prior, decode it, and write figures/samples.png.

    Of vectors it draws x, and shows a histogram of each column beside that of the test data.

    Example: pyrovae sample runs/first --count 100
    """
    from pyrovae import plots

    opened = own.open(run, data)
    rows = _numbers(count or 100)
    how: Any = {"given": _given(opened, rows), "complete": _completer(opened, rows)}
    how |= {"mean": not draws, "seed": seed, "class_names": opened.class_names} | _known(opened)
    figure = plots.samples(opened.pair, count, **how)
    draw(opened, figure, "samples")


def pairs(
    run: RunFolder,
    /,
    *,
    columns: Annotated[
        list[int] | None,
        Parameter(
            help="The columns, counted from 0. [default: those that depend most on others, 5 at most]",
            negative="",
        ),
    ] = None,
    limit: Limit = 1000,
    limit_seed: LimitSeed = 0,
    seed: Seed = 0,
    data: DataFile = None,
    own: Own = NONE_OWN,
) -> None:
    """Draw columns of test data against each other, and draws of the model, and write figures/pairs.png.

    Example: pyrovae pairs runs/wine --columns 0 --columns 3
    """
    from pyrovae import plots

    opened = own.open(run, data)
    rows = _chosen(opened, limit, limit_seed)
    how: Any = {"seed": seed, "given": _given(opened, rows)}
    how["column_names"] = opened.scored.column_names
    draw(opened, plots.pairs(opened.pair, _fixed(opened, rows), columns, **how), "pairs")


def reconstruct(
    run: RunFolder,
    /,
    *,
    count: Annotated[
        int | None, Parameter(help="The number of test data. [default: 10 images, or 1,000 vectors]")
    ] = None,
    data: DataFile = None,
    own: Own = NONE_OWN,
) -> None:
    """Encode and decode test data, and write figures/reconstructions.png.

    Of vectors, each column is drawn against its reconstruction.

    Example: pyrovae reconstruct runs/first
    """
    from pyrovae import plots

    opened = own.open(run, data)
    rows = _first(opened, _default_count(opened) if count is None else count)
    how: Any = {"original": _original(opened, rows), "column_names": opened.scored.column_names}
    how |= {"given": _given(opened, rows), "complete": _completer(opened, rows)}
    figure = plots.reconstructions(opened.pair, _fixed(opened, rows), len(rows), **how)
    draw(opened, figure, "reconstructions")


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
    from pyrovae import plots

    opened = own.open(run, data)
    rows = _first(opened, 2 * count)
    x = _fixed(opened, rows)
    how: Any = {"given": _given(opened, rows[::2]), "given_end": _given(opened, rows[1::2])}
    how |= {"site": site, "complete": _completer(opened, rows)}
    figure = plots.interpolation(opened.pair, x[::2], x[1::2], steps, **how)
    draw(opened, figure, "interpolation", site)


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
    from pyrovae import plots

    opened = own.open(run, data)
    rows = _first(opened, 4, first)
    how: Any = {"site": site, "given": _given(opened, rows), "complete": _completer(opened, rows)}
    figure = plots.interpolation_grid(opened.pair, _fixed(opened, rows), steps, **how)
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
    from pyrovae import plots

    opened = own.open(run)
    given, number = _given(opened, _numbers(1)), None if label is None else opened.number_of_class(label)
    how: Any = {"site": site, "given": given, "class_names": opened.class_names}
    how |= {
        "condition": given and "the condition of test datum 0",
        "complete": _completer(opened, _numbers(1)),
    }
    draw(opened, plots.manifold(opened.pair, steps, number, **how), "manifold", site)


def traverse(
    run: RunFolder,
    /,
    *,
    image: Annotated[int, Parameter(help="The test datum to start from, counted from 0.")] = 0,
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
    import torch

    from pyrovae import plots
    from pyrovae.recipes.run_data import Choice

    opened = own.open(run, data)
    start, others = _first(opened, 1, image), Choice.among(len(opened.scored.x), 1000).rows
    rows = torch.cat([start, others[others != image]])
    how: Any = {"site": site, "given": _given(opened, rows), "complete": _completer(opened, rows)}
    how["column_names"] = opened.scored.column_names
    figure = plots.traversal(opened.pair, _encoded(opened, rows), 0, dimensions, **how)
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

    A conditional model (cvae) gets each class as its condition.

    Example: pyrovae class-samples runs/m2 --count 10
    """
    from pyrovae import plots

    opened = own.open(run)
    _check_images_of_classes(opened)
    how: Any = {"seed": seed, "class_names": opened.class_names}
    if (classes := _classes_as_conditions(opened, count)) is not None:
        number = count * opened.about.num_classes
        figure = plots.samples(opened.pair, number, columns=count, given=classes, **how)
    else:
        how |= {"candidates": candidates, "given": _given(opened, _numbers(count))}
        figure = plots.class_samples(opened.pair, count, **how)
    draw(opened, figure, "class_samples")


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
    from pyrovae import plots

    opened = own.open(run, data)
    _check_images_of_classes(opened)
    rows = _first(opened, count)
    how: Any = {"given": _given(opened, rows), "class_names": opened.class_names}
    draw(opened, plots.analogies(opened.pair, _encoded(opened, rows), **how), "analogies")


def _check_images_of_classes(run: Run) -> None:
    """Refuse figures that show images of each class for a model of classes and vectors.

    Raises:
        InputError: the run was trained on vectors. The message says how to draw some of each class.
    """
    if run.classes and len(run.about.x_shape) == 1:
        raise InputError(
            f"{run.folder} was trained on vectors, and this figure shows images. In Python, "
            f"pyrovae.generation.class_samples(Run.open({str(run.folder)!r}).pair, 10, mean=False) draws "
            "10 data of each class, a tensor (classes, 10, columns)."
        )


# Latent space


def latent(
    run: RunFolder,
    /,
    *,
    by: Annotated[
        Literal["pca", "tsne", "direct", "pairs"],
        Parameter(
            help="The projection to the plane. direct shows 2-D latents as they are, pairs shows the most "
            "active dimensions against each other."
        ),
    ] = "pca",
    limit: Limit = 2000,
    limit_seed: LimitSeed = 0,
    site: Site = None,
    seed: Seed = 0,
    data: DataFile = None,
    own: Own = NONE_OWN,
) -> None:
    """Draw posterior means by class, and write figures/latent_pca.png (_tsne, _direct, _pairs).

    Example: pyrovae latent runs/first --by tsne
    """
    from pyrovae import plots

    opened = own.open(run, data)
    rows, y = _chosen(opened, limit, limit_seed), opened.scored.y
    classes = None if y is None else y[rows]
    how: Any = {"by": by, "site": site, "seed": seed, "given": _given(opened, rows)}
    how["class_names"] = opened.class_names
    figure = plots.latents(opened.pair, _encoded(opened, rows), classes, **how)
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

    opened = own.open(run, data)
    _check_one_prior(opened)
    classes = _test_classes(opened)
    rows = _chosen(opened, limit, limit_seed)
    how: Any = {"site": site, "seed": seed, "class_names": opened.class_names}
    figure = plots.histograms(opened.pair, _fixed(opened, rows), classes[rows], dimensions, **how)
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

    opened = own.open(run, data)
    _check_one_prior(opened)
    x = _fixed(opened, _chosen(opened, limit, limit_seed))
    how: Any = {"site": site, "seed": seed}
    figure = plots.aggregated_posterior(opened.pair, x, dimensions, **how)
    draw(opened, figure, "aggregated_posterior", site)


# Training and classification


def curves(run: RunFolder, /, *, own: Own = NONE_OWN) -> None:
    """Draw the bound, its two terms and the classification terms, and write figures/learning_curves.png.

    Example: pyrovae curves runs/first
    """
    from pyrovae import plots

    opened = own.open(run)
    draw(opened, plots.history(opened.history, plots.term_labels(opened.pair)), "learning_curves")


def confusion(
    run: RunFolder,
    /,
    *,
    limit: Limit = 10_000,
    limit_seed: LimitSeed = 0,
    data: DataFile = None,
    own: Own = NONE_OWN,
) -> None:
    """Classify test data, and write figures/confusion_matrix.png.

    Example: pyrovae confusion runs/m2
    """
    from pyrovae import plots
    from pyrovae.generation import num_classes

    opened = own.open(run, data)
    classes = _test_classes(opened)
    num_classes(opened.pair, given=_given(opened, _numbers(1)))  # which refuses a model without classes
    rows = _chosen(opened, limit, limit_seed)
    how: Any = {"given": _given(opened, rows), "class_names": opened.class_names}
    figure = plots.confusion(opened.pair, _encoded(opened, rows), classes[rows], **how)
    draw(opened, figure, "confusion_matrix")


def overview(run: RunFolder, /, *, data: DataFile = None, own: Own = NONE_OWN) -> None:
    """Write figures/overview.png: plate diagram, learning curves, samples, reconstructions.

    Example: pyrovae overview runs/first
    """
    from pyrovae import plots

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
    rows = _first(opened, _default_count(opened))
    how: Any = {"original": _original(opened, rows), "given": _given(opened, rows)}
    how |= {"complete": _completer(opened, rows), "column_names": opened.scored.column_names}
    how["class_names"] = opened.class_names
    how |= {"diagram": diagram_of(opened), "labels": plots.term_labels(opened.pair), "title": title}
    page = plots.overview(opened.pair, _fixed(opened, rows), opened.history, **how)
    draw(opened, page, "overview")


COMMANDS: dict[str, Callable[..., None]] = {
    "sample": sample,
    "pairs": pairs,
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


def _numbers(count: int) -> Tensor:
    """Return the numbers 0, 1, ..., `count` - 1."""
    import torch

    return torch.arange(count)


def _first(run: Run, count: int, first: int = 0) -> Tensor:
    """Return the rows of `count` test data, from `first` on, or refuse to if there are not so many."""
    number = len(run.scored.x)
    if not 1 <= count <= number:
        raise InputError(f"{count} test data were asked for; ask for 1 to {number}.")
    if not 0 <= first <= number - count:
        raise InputError(f"test datum {first} was asked for; choose from 0 to {number - count}.")
    return first + _numbers(count)


def _chosen(run: Run, limit: int, seed: int) -> Tensor:
    """Return the rows of at most `limit` test data, and say so if these are not all."""
    from pyrovae.recipes.run_data import Choice

    choice = Choice.among(len(run.scored.x), limit, seed)
    if not choice.is_all:
        print(f"shown: {choice}")
    return choice.rows


def _default_count(run: Run) -> int:
    """Return the number of data that a figure shows by default: a few images, or many vectors."""
    return min(10 if len(run.about.x_shape) == 3 else 1000, len(run.scored.x))


def _fixed(run: Run, rows: Tensor) -> Tensor:
    """Return test data as in evaluation, binarised if the model takes binary pixels."""
    return run.presentation.fixed(run.scored.x)[rows]


def _encoded(run: Run, rows: Tensor) -> Tensor:
    """Return test data, prepared for the encoder."""
    return run.presentation.encoded(run.scored.x)[rows]


def _original(run: Run, rows: Tensor) -> Tensor | None:
    """Return test data before they were binarised, or None if they were not."""
    return run.scored.x[rows] if run.presentation.changes_pixels else None


def _known(run: Run) -> dict[str, Any]:
    """Return all test data as in evaluation and the names of their columns, if they have not gone."""
    with suppress(InputError):
        x = run.presentation.fixed(run.scored.x)
        return {"x": x, "column_names": run.scored.column_names}
    return {}


def _given(run: Run, rows: Tensor) -> Any:
    """Return what is given to a conditional model beside test data, whose rows begin anew."""
    if run.plan.stages[-1].given is None:  # nor are data needed, then
        return None
    places = rows % len(run.scored.x)
    y = None if run.scored.y is None else run.scored.y[places]
    return run.given(run.presentation.encoded(run.scored.x[places]), y)


def _classes_as_conditions(run: Run, count: int) -> Any:
    """Return what is given to a model whose condition is a class, `count` rows for each; None for others.

    Raises:
        InputError: `count` is below 1, or the condition is a class and the data are no images.
    """
    import torch

    check_counts(count=count)
    if run.plan.stages[-1].given is None:
        return None
    y = _numbers(run.about.num_classes).repeat_interleave(count)
    given = run.given(run.presentation.encoded(run.scored.x[:1].expand(len(y), *run.about.x_shape)), y)
    rows = [value for value in (given or {}).values() if isinstance(value, torch.Tensor) and value.dim()]
    depend = (len(value) == len(y) and not value.eq(value[:1]).all() for value in rows)
    if not any(depend):  # the data are the same in all rows
        return None
    if len(run.about.x_shape) != 3:
        raise InputError(
            f"class-samples draws images, and one datum has shape {run.about.x_shape}: use sample for the "
            "columns of all classes, or in Python generation.samples(run.pair, n, given={'c': c}) for the "
            "draws of a class, with its one-hot row in each of the n rows of c."
        )
    return given


def _completer(run: Run, rows: Tensor) -> Complete | None:
    """Return a function that puts what is given of test data into images, in its place.

    Args:
        run: the run.
        rows: the rows of the test data that are given, for the rows 0, 1, ... of the figure.
    """
    stage = run.plan.stages[-1]
    given_of, complete = stage.given, stage.complete
    if complete is None or given_of is None:
        return None

    def completed(images: Tensor, shown: Tensor) -> Tensor:
        places = rows[shown] % len(run.scored.x)
        x = run.presentation.shown(run.presentation.encoded(run.scored.x[places]))
        return complete(images, given_of(x, None if run.scored.y is None else run.scored.y[places]))

    return completed


def _check_one_prior(run: Run) -> None:
    """Refuse a conditional model, where latents are to be compared with the prior.

    Raises:
        InputError: the prior depends on what is given with each datum.
    """
    if run.plan.stages[-1].given is not None:
        raise InputError(
            f"the prior p(z | c) of {run.config.recipe} is another one for each condition c, so latents of "
            f"all data cannot be drawn against one prior: pyrovae latent {run.folder} draws them alone, "
            f"and pyrovae traverse {run.folder} moves one latent through the prior of its condition."
        )


def _test_classes(run: Run) -> Tensor:
    if run.scored.y is None:
        raise InputError(
            f"{run.scored.name} has no classes to tell apart: train on a data set with classes "
            "(pyrovae train MODEL --help, option --data)."
        )
    return run.scored.y
