"""The command line: train, resume, evaluate, sample, reconstruct, interpolate, plates, models."""

from __future__ import annotations

import sys
import warnings
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from pyrovae import plots, runs
from pyrovae.build import LIKELIHOODS, MODELS, NETWORKS, build_model
from pyrovae.data import DATASETS
from pyrovae.errors import CheckpointError, InputError, NonFiniteError
from pyrovae.generation import interpolate as interpolate_between
from pyrovae.generation import reconstruct as reconstruct_images
from pyrovae.generation import sample_images
from pyrovae.plates import PlateDiagram, plate_diagram

DEFAULTS: dict[str, Any] = {
    field.name: field.default for field in fields(runs.Config) if field.default is not MISSING
}

app = typer.Typer(
    help="Variational autoencoders as probabilistic programs.",
    epilog="Example: pyrovae train vae --data digits --epochs 300 --out runs/first && "
    "pyrovae evaluate runs/first",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# What typer raises for a command line that it cannot read; it has no name for it of its own.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
INTERRUPTED = 130  # what typer makes of Ctrl-C

RunFolder = Annotated[Path, typer.Argument(help="A run folder, as written by 'train'.")]
Device = Annotated[str, typer.Option(help="auto (CUDA where there is one), cpu, cuda, cuda:1, ...")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
Seed = Annotated[int, typer.Option(help="Seed of the random draws.")]


def main() -> None:
    """Run the command line; what a user can mend is told in one line, with exit status 1."""
    warnings.showwarning = _show_warning
    interrupted = "interrupted; 'pyrovae resume' goes on from the last finished epoch."
    try:
        status = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except UsageError as error:
        _fail(" ".join(error.format_message().split()))  # type: ignore[attr-defined]
    except (InputError, CheckpointError, NonFiniteError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}.")
    except (KeyboardInterrupt, typer.Abort):
        _fail(interrupted)
    if status == INTERRUPTED:
        _fail(interrupted)


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def _show_warning(message: Warning | str, *rest: Any, **more: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


@app.command(epilog="Example: pyrovae train vae --data mnist --latent-dim 50 --width 400 --out runs/m")
def train(
    model: Annotated[str, typer.Argument(help=f"One of {', '.join(MODELS)}.")],
    out: Annotated[Path, typer.Option(help="The run folder to write.")],
    data: Annotated[
        str, typer.Option(help=f"{', '.join(DATASETS)}; or a .npz or .npy file or an image folder.")
    ] = DEFAULTS["data"],
    likelihood: Annotated[str, typer.Option(help=f"p(x | z): {', '.join(LIKELIHOODS)}.")] = DEFAULTS[
        "likelihood"
    ],
    network: Annotated[str, typer.Option(help=f"Encoder and decoder: {', '.join(NETWORKS)}.")] = DEFAULTS[
        "network"
    ],
    latent_dim: Annotated[int, typer.Option(help="Dimensions of z.")] = DEFAULTS["latent_dim"],
    width: Annotated[int, typer.Option(help="Width of the networks.")] = DEFAULTS["width"],
    binarise: Annotated[
        str, typer.Option(help="; ".join(f"{k}: {v}" for k, v in runs.BINARISATIONS.items()) + ".")
    ] = DEFAULTS["binarise"],
    epochs: Annotated[int, typer.Option(help="Passes through the data.")] = DEFAULTS["epochs"],
    batch_size: Annotated[int, typer.Option(help="Data in a minibatch.")] = DEFAULTS["batch_size"],
    learning_rate: Annotated[float, typer.Option(help="Adam's.")] = DEFAULTS["learning_rate"],
    beta: Annotated[float, typer.Option(help="Weight of the KL term.")] = DEFAULTS["beta"],
    warm_up: Annotated[float, typer.Option(help="Epochs over which beta rises from 0.")] = DEFAULTS[
        "warm_up"
    ],
    cycle: Annotated[
        float, typer.Option(help="Epochs of a cycle in which beta rises from 0 and stays.")
    ] = DEFAULTS["cycle"],
    clip_norm: Annotated[float | None, typer.Option(help="The gradient's largest norm.")] = DEFAULTS[
        "clip_norm"
    ],
    validation_fraction: Annotated[
        float, typer.Option(help="Share of the training data held out to choose the best epoch.")
    ] = DEFAULTS["validation_fraction"],
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better bound.")
    ] = DEFAULTS["patience"],
    seed: Seed = DEFAULTS["seed"],
    device: Device = "auto",
    download: Annotated[bool, typer.Option("--download", help="Fetch the data set if absent.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write scalars.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a model, and write a run folder."""
    config = runs.Config(
        model=model,
        data=data,
        likelihood=likelihood,
        network=network,
        latent_dim=latent_dim,
        width=width,
        binarise=binarise,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        beta=beta,
        warm_up=warm_up,
        cycle=cycle,
        clip_norm=clip_norm,
        validation_fraction=validation_fraction,
        patience=patience,
        seed=seed,
    )
    run = runs.train(
        config, out, device=device, download=download, tensorboard=tensorboard, progress=not quiet
    )
    _report_training(run)


@app.command(epilog="Example: pyrovae resume runs/first --epochs 500")
def resume(
    run: RunFolder,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs in all; by default as many as first asked for.")
    ] = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Go on with a run that was interrupted, or for more epochs."""
    config = runs.Run.open(run).config
    config = config if epochs is None else replace(config, epochs=epochs)
    _report_training(runs.train(config, run, device=device, resume=True, progress=not quiet))


def _report_training(run: runs.Run) -> None:
    history = run.history
    last = history.rows[(history.best_epoch or len(history.rows)) - 1]
    terms = {"validation_elbo": "validation ELBO", "elbo": "training ELBO", "kl": "KL"}
    figures = ", ".join(f"{label} {last[key]:.2f}" for key, label in terms.items() if key in last)
    which = "best epoch" if history.best_epoch else "last epoch"
    why = " (stopped early)" if history.stopped_early else ""
    print(f"trained {len(history.rows)} epochs{why}; {which} {last['epoch']:.0f}: {figures} nats")
    _draw(run, plots.learning_curves(history), "learning_curves")
    _save_diagram(_diagram(run), run.folder / "figures" / "plate_diagram.png")


@app.command(epilog="Example: pyrovae evaluate runs/first --num-samples 5000")
def evaluate(
    run: RunFolder,
    num_samples: Annotated[int, typer.Option(help="K, importance samples for each datum.")] = 5000,
    limit: Annotated[int | None, typer.Option(help="Only the first so many test data.")] = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Estimate the marginal likelihood of the test data, with error bars and k-hat."""
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; it must be at least 1.")
    opened = runs.Run.open(run)
    result = opened.evaluate(num_samples, limit, device, progress=not quiet)
    print(result)
    if (metrics := opened.metrics) and "exact_log_likelihood" in metrics:
        print(f"exact    = {metrics['exact_log_likelihood']:.3f}")
    print(f"written: {run / 'metrics.json'}, {run / 'marginal_likelihood.json'}")


@app.command(epilog="Example: pyrovae sample runs/first --count 100")
def sample(
    run: RunFolder,
    count: Annotated[int, typer.Option(help="How many images.")] = 100,
    seed: Seed = 0,
) -> None:
    """Draw z from the prior, decode it, and write figures/samples.png."""
    opened = runs.Run.open(run)
    _draw(opened, plots.samples(sample_images(opened.model, count, seed)), "samples")


@app.command(epilog="Example: pyrovae reconstruct runs/first")
def reconstruct(
    run: RunFolder, count: Annotated[int, typer.Option(help="How many test images.")] = 10
) -> None:
    """Encode and decode test images, and write figures/reconstructions.png."""
    opened = runs.Run.open(run)
    _draw(opened, plots.reconstructions(*_reconstructions(opened, count)), "reconstructions")


@app.command(epilog="Example: pyrovae interpolate runs/first --count 5 --steps 12")
def interpolate(
    run: RunFolder,
    count: Annotated[int, typer.Option(help="How many pairs of test images.")] = 5,
    steps: Annotated[int, typer.Option(help="Images on each line.")] = 12,
) -> None:
    """Decode straight lines between test images, and write figures/interpolation.png."""
    opened = runs.Run.open(run)
    x = _test_images(opened, 2 * count)
    lines = interpolate_between(opened.model, x[::2], x[1::2], steps)
    _draw(opened, plots.interpolations(lines), "interpolation")


@app.command(epilog="Example: pyrovae overview runs/first")
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
        _diagram(opened),
        opened.history,
        sample_images(opened.model, 50),
        _reconstructions(opened, min(10, len(opened.images.x_test))),
        title,
    )
    _draw(opened, page, "overview")


@app.command(epilog="Example: pyrovae plates vae --out vae.tex (also .png, .svg, .pdf, .dot)")
def plates(
    model: Annotated[str, typer.Argument(help=f"{', '.join(MODELS)}; or a run folder.")],
    out: Annotated[Path | None, typer.Option(help="A file: .png, .svg, .pdf, .dot or .tex.")] = None,
) -> None:
    """Print a model's plate diagram, read off its program; with --out also draw it."""
    diagram = _diagram(runs.Run.open(Path(model))) if Path(model).is_dir() else _small_diagram(model)
    print(diagram)
    if out is not None:
        _save_diagram(diagram, out)


@app.command(epilog="Example: pyrovae models")
def models() -> None:
    """List models, data sets, likelihoods and networks."""
    for title, entries in {"models": MODELS, "data sets": DATASETS}.items():
        print(f"{title}:")
        for name, description in entries.items():
            print(f"  {name:<14} {description}")
    print(f"likelihoods: {', '.join(LIKELIHOODS)}")
    print(f"networks: {', '.join(NETWORKS)}")


def _diagram(run: runs.Run) -> PlateDiagram:
    x, _ = run.training_data(run.images)
    model = run.new_model(run.images.shape)
    return plate_diagram(model.model, model.guide, x)  # type: ignore[arg-type]


def _small_diagram(name: str) -> PlateDiagram:
    model = build_model(name, (4,), latent_dim=2, width=4)
    return plate_diagram(model.model, model.guide, torch.zeros(8, 4))  # type: ignore[arg-type]


def _test_images(run: runs.Run, count: int) -> torch.Tensor:
    x = run.images.x_test
    if not 1 <= count <= len(x):
        raise InputError(f"{count} test images were asked for; there are {len(x)}, and 1 is the least.")
    return run.presented(x)[:count]


def _reconstructions(run: runs.Run, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Images as the model sees them, their reconstructions, and what they were before, if that differs."""
    x = _test_images(run, count)
    original = run.images.x_test[:count] if run.config.pixels in ("static", "dynamic") else None
    return run.shown(x), reconstruct_images(run.model, x), original


def _draw(run: runs.Run, figure: Any, name: str) -> None:
    print(f"written: {plots.save(figure, run.folder / 'figures' / f'{name}.png')}")


def _save_diagram(diagram: PlateDiagram, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    diagram.save(path)
    print(f"written: {path}")
