"""The command line: train, resume, evaluate, diagnose, classify, plates and models; the figures are in
`cli_figures`."""

from __future__ import annotations

import sys
import warnings
from contextlib import redirect_stdout
from dataclasses import MISSING, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from pyrovae import plots
from pyrovae.cli import figures as cli_figures
from pyrovae.cli.figures import RunFolder, Seed, diagram_of, draw
from pyrovae.compute import processes
from pyrovae.compute.devices import resolve_device
from pyrovae.data import DATASETS
from pyrovae.diagrams import PlateDiagram, plate_diagram
from pyrovae.errors import CheckpointError, InputError, NonFiniteError
from pyrovae.evaluation import active_units, inference_gaps, kl_decomposition
from pyrovae.recipes import runs as runs
from pyrovae.recipes.build import (
    CLASSED,
    LIKELIHOODS,
    MODELS,
    NETWORKS,
    OBJECTIVES,
    POSTERIORS,
    PRIORS,
    build_model,
)
from pyrovae.recipes.config import BINARISATIONS, Config

DEFAULTS: dict[str, Any] = {
    field.name: field.default for field in fields(Config) if field.default is not MISSING
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

Device = Annotated[str, typer.Option(help="auto (CUDA where there is one), cpu, cuda, cuda:1, ...")]
Compile = Annotated[
    str, typer.Option(help="One compiled graph for what is repeated: auto (if often enough), on or off.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]


def main() -> None:
    """Run the command line; what a user can mend is told in one line, with exit status 1."""
    warnings.showwarning = _show_warning
    interrupted = "interrupted; 'pyrovae resume' goes on from the last finished epoch."
    try:
        with processes.joined(), redirect_stdout(sys.stdout if processes.is_first() else None):
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
    where = "" if processes.is_first() else f" in process {processes.rank()}"
    print(f"error{where}: {message}", file=sys.stderr)
    sys.exit(1)


def _show_warning(message: Warning | str, *rest: Any, **more: Any) -> None:
    if processes.is_first():
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
    posterior: Annotated[str, typer.Option(help=f"q(z | x): {', '.join(POSTERIORS)}.")] = DEFAULTS[
        "posterior"
    ],
    prior: Annotated[str, typer.Option(help=f"p(z): {', '.join(PRIORS)}.")] = DEFAULTS["prior"],
    network: Annotated[str, typer.Option(help=f"Encoder and decoder: {', '.join(NETWORKS)}.")] = DEFAULTS[
        "network"
    ],
    latent_dim: Annotated[int, typer.Option(help="Dimensions of z.")] = DEFAULTS["latent_dim"],
    width: Annotated[int, typer.Option(help="Width of the networks.")] = DEFAULTS["width"],
    flow_steps: Annotated[
        int | None, typer.Option(help="Steps of a flow posterior; by default as suits the flow.")
    ] = DEFAULTS["flow_steps"],
    components: Annotated[
        int, typer.Option(help="Of a mixture prior; pseudo-inputs of a VampPrior.")
    ] = DEFAULTS["components"],
    binarise: Annotated[
        str, typer.Option(help="; ".join(f"{k}: {v}" for k, v in BINARISATIONS.items()) + ".")
    ] = DEFAULTS["binarise"],
    epochs: Annotated[int, typer.Option(help="Passes through the data.")] = DEFAULTS["epochs"],
    batch_size: Annotated[int, typer.Option(help="Data in a minibatch.")] = DEFAULTS["batch_size"],
    learning_rate: Annotated[float, typer.Option(help="Adam's.")] = DEFAULTS["learning_rate"],
    objective: Annotated[
        str, typer.Option(help="; ".join(f"{k}: {v}" for k, v in OBJECTIVES.items()) + ".")
    ] = DEFAULTS["objective"],
    particles: Annotated[int, typer.Option(help="Draws of z for each datum at each step.")] = DEFAULTS[
        "particles"
    ],
    free_bits: Annotated[float, typer.Option(help="The floor, in nats.")] = DEFAULTS["free_bits"],
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
        float | None,
        typer.Option(
            help="Share of the training data held out to choose the best epoch, by its bound with the last "
            "one's beta; by default 0.1, and 0 for models with classes (not the VAE beneath one)."
        ),
    ] = DEFAULTS["validation_fraction"],
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better bound.")
    ] = DEFAULTS["patience"],
    shift: Annotated[
        int, typer.Option(help="Move each image by up to so many pixels at every presentation.")
    ] = DEFAULTS["shift"],
    labels: Annotated[
        int | None,
        typer.Option(help="Labelled data of each class; all by default."),
    ] = DEFAULTS["labels"],
    spread: Annotated[
        bool,
        typer.Option(
            "--spread", help="First train a VAE, spread the labels over its latents, and learn those."
        ),
    ] = DEFAULTS["spread"],
    learn_class_prior: Annotated[
        bool, typer.Option("--learn-class-prior", help="Learn p(y), rather than keep it uniform.")
    ] = DEFAULTS["learn_class_prior"],
    alpha: Annotated[
        float, typer.Option(help="m2, m1m2: weight of the labelled data's mean log q(y | x).")
    ] = DEFAULTS["alpha"],
    prediction: Annotated[
        float, typer.Option(help="pcvae, cpcvae: lambda, weight of log p(y | z).")
    ] = DEFAULTS["prediction"],
    consistency: Annotated[
        float,
        typer.Option(help="cpcvae: weight of unlabelled data's agreement after decoding and encoding."),
    ] = DEFAULTS["consistency"],
    aggregate: Annotated[
        float,
        typer.Option(help="cpcvae: weight of unlabelled data's predicted frequencies."),
    ] = DEFAULTS["aggregate"],
    constraint_delay: Annotated[
        float, typer.Option(help="pcvae, cpcvae: epochs before the constraints count.")
    ] = DEFAULTS["constraint_delay"],
    constraint_warm_up: Annotated[
        float, typer.Option(help="pcvae, cpcvae: epochs over which they rise from then on.")
    ] = DEFAULTS["constraint_warm_up"],
    seed: Seed = DEFAULTS["seed"],
    device: Device = "auto",
    compile: Compile = DEFAULTS["compile"],
    download: Annotated[bool, typer.Option("--download", help="Fetch the data set if absent.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write scalars.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a model, and write a run folder."""
    config = Config(
        model=model,
        data=data,
        likelihood=likelihood,
        posterior=posterior,
        prior=prior,
        network=network,
        latent_dim=latent_dim,
        width=width,
        flow_steps=flow_steps,
        components=components,
        binarise=binarise,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        objective=objective,
        particles=particles,
        free_bits=free_bits,
        beta=beta,
        warm_up=warm_up,
        cycle=cycle,
        clip_norm=clip_norm,
        validation_fraction=validation_fraction,
        patience=patience,
        shift=shift,
        labels=labels,
        spread=spread,
        learn_class_prior=learn_class_prior,
        alpha=alpha,
        prediction=prediction,
        consistency=consistency,
        aggregate=aggregate,
        constraint_delay=constraint_delay,
        constraint_warm_up=constraint_warm_up,
        compile=compile,
        seed=seed,
    )
    run = runs.train(
        config,
        out,
        device=device,
        download=download,
        tensorboard=tensorboard,
        progress=not quiet,
    )
    _report_training(run)


@app.command(epilog="Example: pyrovae resume runs/first --epochs 500")
def resume(
    run: RunFolder,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs in all; by default as many as first asked for.")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="A run that has stopped early goes on with more; by default what it began with."),
    ] = None,
    device: Device = "auto",
    compile: Annotated[
        str | None, typer.Option(help="auto, on or off; by default as it was begun, to the same bits.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Go on with a run that was interrupted, or for more epochs."""
    config = runs.Run.open(run).config
    asked: dict[str, Any] = {"epochs": epochs, "patience": patience, "compile": compile}
    config = replace(config, **{name: value for name, value in asked.items() if value is not None})
    resumed = runs.train(config, run, device=device, resume=True, progress=not quiet)
    _report_training(resumed)


def _report_training(run: runs.Run) -> None:
    if not processes.is_first():
        return
    if run.stands_on_m1:
        print(f"VAE beneath: {run.m1.history.outcome()}")
    on = " (of M2, on draws of z1)" if run.config.model == "m1m2" else ""
    print(f"{run.history.outcome()}{on}")
    labels = plots.term_labels(run.model)
    draw(run, plots.learning_curves(run.history, labels=labels), "learning_curves")
    _save_diagram(diagram_of(run), run.folder / "figures" / "plate_diagram.png")


@app.command(epilog="Example: pyrovae evaluate runs/first --num-samples 5000")
def evaluate(
    run: RunFolder,
    num_samples: Annotated[int, typer.Option(help="K, importance samples for each datum.")] = 5000,
    limit: Annotated[int | None, typer.Option(help="Only the first so many test data.")] = None,
    device: Device = "auto",
    precision: Annotated[
        str, typer.Option(help="Of matrix products: float32; faster, bfloat16 or (on CUDA) tf32.")
    ] = "float32",
    compile: Compile = "auto",
    quiet: Quiet = False,
) -> None:
    """Estimate the marginal likelihood of the test data, with error bars and k-hat."""
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; it must be at least 1.")
    opened = runs.Run.open(run)
    options = {"precision": precision, "compile": compile}
    print(opened.evaluate(num_samples, limit, device, progress=not quiet, **options))
    if (metrics := opened.metrics) and "exact_log_likelihood" in metrics:
        print(f"exact    = {metrics['exact_log_likelihood']:.3f}")
    if metrics and "test_error" in metrics:
        print(f"test error = {metrics['test_error']:.2f} %")
    print(f"written: {run / 'metrics.json'}, {run / 'marginal_likelihood.json'}")


@app.command(epilog="Example: pyrovae diagnose runs/first --limit 100")
def diagnose(
    run: RunFolder,
    limit: Annotated[int, typer.Option(help="Only the first so many test data.")] = 100,
    num_samples: Annotated[int, typer.Option(help="K, importance samples for each datum.")] = 1000,
    steps: Annotated[int, typer.Option(help="Of the search for each datum's best q.")] = 500,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Where the bound is lost, and what the latents carry: gaps, active units, the KL's parts."""
    for name, number, least in (("limit", limit, 2), ("num_samples", num_samples, 1), ("steps", steps, 1)):
        if number < least:
            raise InputError(f"{name} is {number}; it must be at least {least}.")
    opened = runs.Run.open(run)
    model: Any = opened.model.to(resolve_device(device))
    x = opened.presented(opened.images.x_test)[:limit]
    search: dict[str, Any] = {"num_samples": num_samples, "steps": steps, "progress": not quiet}
    analyses: dict[str, Any] = {
        "active_units": active_units,
        "kl_decomposition": kl_decomposition,
        "inference_gaps": partial(inference_gaps, **search),
    }
    for name, analyse in analyses.items():
        try:
            result = analyse(model, x)
        except InputError as error:  # not every guide can be taken apart in every way
            print(f"no {name.replace('_', ' ')} of this guide: {error}")
            continue
        print(result)
        result.to_json(run / f"{name}.json")
        print(f"written: {run / f'{name}.json'}")


@app.command(epilog="Example: pyrovae classify runs/first --labels 10")
def classify(
    run: RunFolder,
    labels: Annotated[
        int | None,
        typer.Option(help="Labelled data of each class for M1's classifiers; by default the run's."),
    ] = None,
    num_samples: Annotated[
        int, typer.Option(help="Also p(y | x) by Bayes' rule, with so many samples for each class.")
    ] = 0,
    draws: Annotated[
        bool, typer.Option("--draws", help="Fit M1's classifiers to draws of z rather than to its means.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Test errors: of the model's own classifier, and of M1's (scikit-learn's) on its latents."""
    errors = runs.Run.open(run).classify(labels, num_samples, draws, device)
    for name, error in errors.items():
        print(f"{name:<16} {error:6.2f} % test error")
    print(f"written: {run / 'classification.json'}")


cli_figures.register(app)


@app.command(epilog="Example: pyrovae plates vae --out vae.tex (also .png, .svg, .pdf, .dot)")
def plates(
    model: Annotated[str, typer.Argument(help=f"{', '.join(MODELS)}; or a run folder.")],
    out: Annotated[Path | None, typer.Option(help="A file: .png, .svg, .pdf, .dot or .tex.")] = None,
) -> None:
    """Print a model's plate diagram, read off its program; with --out also draw it."""
    diagram = diagram_of(runs.Run.open(Path(model))) if Path(model).is_dir() else _small_diagram(model)
    print(diagram)
    if out is not None:
        _save_diagram(diagram, out)


@app.command(epilog="Example: pyrovae models")
def models() -> None:
    """List models, data sets, objectives, and the parts that models are made of."""
    for title, entries in {
        "models": MODELS,
        "data sets": {name: row.summary for name, row in DATASETS.items()},
        "objectives": OBJECTIVES,
    }.items():
        print(f"{title}:")
        for name, description in entries.items():
            print(f"  {name:<14} {description}")
    print(f"posteriors: {', '.join(POSTERIORS)}")
    print(f"priors: {', '.join(PRIORS)}")
    print(f"likelihoods: {', '.join(LIKELIHOODS)}")
    print(f"networks: {', '.join(NETWORKS)}")


def _small_diagram(name: str) -> PlateDiagram:
    model = build_model(name, (4,), latent_dim=2, width=4, num_classes=2)
    # Three of eight data have a class.
    classes = (torch.tensor([0, 1, 0, *[-1] * 5]),) if name in CLASSED else ()
    return plate_diagram(model, torch.zeros(8, 4), *classes)


def _save_diagram(diagram: PlateDiagram, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    diagram.save(path)
    print(f"written: {path}")
