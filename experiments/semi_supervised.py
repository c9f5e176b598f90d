"""Compare four models that learn from a few labels with simpler methods, on the same data: test errors.

The data are MNIST and CIFAR-10. Of each class, 10 images are labelled (in MNIST also 60, 100 or 300), or
80 % of all images are labelled and the other 20 % are the test set (the 80-20 split). All errors are means
over five draws of the labels or of the split.

- (a) Logistic regression on pixels.
- (b) A network like the encoder, on pixels.
- (c) Logistic regression on the posterior means of a VAE.
- (d) M1: linear SVM, RBF SVM and label spreading on the same means.
- (e) Logistic regression on the posterior means of a PC-VAE.
- The classifiers of M2, M1+M2, PC-VAE and CPC-VAE.

With few labels, the four models learn labels that were spread over the latents of the VAE of (c). The two
levels of M1+M2 are trained one after the other and then jointly. The CPC-VAE is then trained further with
only the given labels and its constraints. "Labels only" means that M2 and PC-VAE learn only the given
labels, from beginning to end.

No label but the given ones is used in any of this. The settings for MNIST were chosen on draw 100 (of
50,000 images), by the error on 10,000 other training images. The settings for CIFAR-10 are those for
MNIST, except for Gaussian pixels and lambda. Lambda was chosen on a held-out eighth of the training images
of split 100. The networks are MLPs there too, since a step of a convolutional network takes four times as
long.

Every model of every draw is written when it is done. A command that is given again skips finished models
and continues an interrupted training after its last epoch. Several processes can share the work. The
images are read from the folder that PYROVAE_DATA names.

    python experiments/semi_supervised.py run --data mnist --labels 10
    python experiments/semi_supervised.py run --data mnist --labels 0       # the 80-20 split
    python experiments/semi_supervised.py table
    python experiments/semi_supervised.py figures
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pyro
import torch
from cyclopts import Parameter, validators
from matplotlib.figure import Figure
from reporting import RESULTS, command_line, some_of
from semi_supervised_results import MEASUREMENTS, write_table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from pyrovae import data, fit, plots, recipes
from pyrovae.evaluation import class_probabilities, error_rate
from pyrovae.generation import latent_means
from pyrovae.models import M1M2, M2, VAE
from pyrovae.programs import ModelAndGuide
from pyrovae.recipes import About, Plan, Stage
from pyrovae.semi_supervised import fit_m1_classifier, only_labels_of, spread_labels


@dataclass(frozen=True)
class Setting:
    """The settings for a data set.

    Attributes:
        likelihood: the name of the likelihood.
        network: the name of the networks.
        latent_dim: the number of latent dimensions.
        width: the number of units in a hidden layer.
        beta: the weight of the VAE's KL term.
        vae_epochs: the number of epochs of the VAE.
        epochs: the number of epochs of each model with spread labels, or with all labels.
        label_epochs: the number of epochs of each model with the given labels only.
        prediction: lambda of PC-VAE and CPC-VAE.
        joint_epochs: the number of epochs of M1+M2's joint training, after that of each level.
        vae_learning_rate: the learning rate of the VAE.
        learning_rate: the learning rate of the other models.
        batch_size: the number of data in a minibatch.
        shift: the largest shift of an image in training, in pixels.
    """

    likelihood: str
    network: str
    latent_dim: int
    width: int
    beta: float
    vae_epochs: int
    epochs: dict[str, int]
    label_epochs: dict[str, int]
    prediction: float = 25.0
    joint_epochs: int = 10
    vae_learning_rate: float = 2e-3
    learning_rate: float = 1e-3
    batch_size: int = 200
    shift: int = 2


SETTINGS = {
    "mnist": Setting(
        likelihood="bernoulli",
        network="mlp",
        latent_dim=50,
        width=500,
        beta=0.3,
        vae_epochs=15,
        epochs={"m2": 8, "m1m2": 4, "pcvae": 12, "cpcvae": 12},
        label_epochs={"m2": 5, "pcvae": 20, "cpcvae": 20},
    ),
    "cifar10": Setting(
        likelihood="gaussian",
        network="mlp",
        latent_dim=64,
        width=500,
        beta=0.3,
        vae_epochs=15,
        epochs={"m2": 10, "m1m2": 5, "pcvae": 10, "cpcvae": 10},
        label_epochs={"m2": 4, "pcvae": 8, "cpcvae": 4},
        prediction=2000.0,  # 25 has no effect beside the log density of 3,072 Gaussian pixels
        joint_epochs=5,
    ),
}
# Options of the recipes. All weights are written out, so that other defaults do not change the results.
WEIGHTS: dict[str, dict[str, float]] = {
    "vae": {},
    "m2": {"alpha": 25.0},
    "m1m2": {"alpha": 25.0},
    "pcvae": {},  # lambda is in the settings
    "cpcvae": {"consistency": 25.0, "aggregate": 25.0},
}
# With the given labels only, the constraint starts late, when the latents are already informative.
LATE_CONSTRAINT = {"constraint_delay": 5.0, "constraint_warm_up": 5.0}
LABELLED_BATCH = 100  # labelled data in a minibatch that has unlabelled data too
NETWORK_STEPS = 3000
SPLIT = 0  # this number of labels means the 80-20 split
MODELS = ("m2", "m1m2", "pcvae", "cpcvae")
JOBS = ("pixels", "network", "m1", *MODELS, "m2-labels-only", "pcvae-labels-only")


@dataclass(frozen=True)
class Problem:
    """The data and labels of one draw.

    Attributes:
        name: the name of the data set.
        draw: the number of the draw, which is also the seed of training.
        x: the training images `(N, C, H, W)`.
        y: their classes `(N,)`, -1 for unlabelled images.
        x_test: the test images.
        y_test: their classes.
        runs: the folder of all checkpoints.
        folder: the folder of this draw's checkpoints.
    """

    name: str
    draw: int
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    runs: Path
    folder: Path

    @property
    def setting(self) -> Setting:
        """The settings for the data set."""
        return SETTINGS[self.name]

    @property
    def labelled(self) -> Tensor:
        """A mask `(N,)` of the labelled images."""
        return self.y != -1

    @cached_property
    def vae(self) -> VAE:
        """The trained VAE (M1)."""
        return trained_vae(self)

    @cached_property
    def spread(self) -> Tensor:
        """The labels, spread over the latents of the VAE unless all of them are given."""
        if self.labelled.all():
            return self.y
        z = latent_means(self.vae, self.x)
        return spread_labels(z, self.y, class_prior=torch.full((10,), 0.1))


def problem(name: str, labels: int, draw: int, runs: Path) -> Problem:
    """Draw the labels of a data set, or a split of all its images.

    Args:
        name: the name of the data set.
        labels: the number of labels of each class; 0 for the 80-20 split of all images.
        draw: the seed of the draw.
        runs: the folder of all checkpoints.
    """
    images = data.load(CIFAR10 if name == "cifar10" else name)
    assert images.y_train is not None
    assert images.y_test is not None
    x, y, x_test, y_test = images.x_train, images.y_train, images.x_test, images.y_test
    folder = runs / f"{name}-{labels or 'split'}-{draw}"
    if labels != SPLIT:
        y = only_labels_of(data.labels_per_class(y, labels, draw), y)
        return Problem(name, draw, x, y, x_test, y_test, runs, folder)
    x, y = torch.cat([x, x_test]), torch.cat([y, y_test])
    kept, others = data.stratified_split(y, 0.2, draw)
    return Problem(name, draw, x[kept], y[kept], x[others], y[others], runs, folder)


CIFAR10 = data.data_root() / "cifar10_jpeg_25k.npz"


def new_plan(p: Problem, name: str, **options: float) -> Plan:
    """Build a model by name. Its pixels start at their frequencies in the training images.

    Only the plan's last stage is used. The VAE before it is trained by `trained_vae`, once for all models.

    Args:
        p: the problem.
        name: the name of the recipe.
        options: other options of the recipe.
    """
    s = p.setting
    if name in ("pcvae", "cpcvae"):
        options["prediction"] = s.prediction
    if name != "vae":
        options["spread"] = False
    about = About(tuple(p.x.shape[1:]), num_classes=10, seed=p.draw)
    plan: Plan = getattr(recipes, name)(
        about,
        latent_dim=s.latent_dim,
        likelihood=s.likelihood,
        network=s.network,
        width=s.width,
        **WEIGHTS[name],
        **options,
    )
    start = plan.stages[0].start
    assert start is not None
    start(p.x)
    return plan


def train(p: Problem, stage: Stage, y: Tensor | None, folder: Path, epochs: int, **settings: Any) -> None:
    """Train a stage with a cosine learning rate, or continue an interrupted training.

    Args:
        p: the problem.
        stage: the pair, its objective and the weights of the labels.
        y: the classes that it learns `(N,)`, -1 for unlabelled images; None for the VAE.
        folder: the folder of the checkpoints.
        epochs: the number of epochs.
        settings: keyword arguments of `fit` in place of those written here.
    """
    learned = {} if y is None or stage.supervised is None else dict(stage.supervised(y))
    defaults: dict[str, Any] = {
        "batch_size": p.setting.batch_size,
        "optimizer": partial(torch.optim.Adam, lr=p.setting.learning_rate, fused=True),
        "scheduler": partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=epochs),
        "objective": stage.objective,
        "transform": partial(transformed, p, stage.transform),
        "seed": p.draw,
        "resume": True,
        "progress": False,
        "compile": "on",
    }
    fit(stage.pair, p.x, y, epochs=epochs, folder=folder, **(defaults | learned | settings))


def transformed(p: Problem, latents: Callable[[Tensor], Tensor] | None, x: Tensor) -> Tensor:
    """Transform a minibatch of images: random shifts, then draws of latents or binarisation.

    Args:
        p: the problem.
        latents: a function that draws latents, for a stage that is trained on them, or None.
        x: the images `(B, C, H, W)`.
    """
    x = data.random_shift(x, p.setting.shift)
    if latents is not None:
        return latents(x)
    return data.binarise(x) if p.setting.likelihood == "bernoulli" else x


def trained_vae(p: Problem) -> VAE:
    """Train the VAE: one for all draws of labels, as it uses none, and one for each split."""
    shared = not p.labelled.all()
    plan = new_plan(p, "vae")
    train(
        p,
        plan.stages[-1],
        None,
        p.runs / f"{p.name}-vae" if shared else p.folder / "vae",
        p.setting.vae_epochs,
        beta=p.setting.beta,
        optimizer=partial(torch.optim.Adam, lr=p.setting.vae_learning_rate, fused=True),
        seed=0 if shared else p.draw,
    )
    assert isinstance(plan.pair, VAE)
    return plan.pair


def trained_model(p: Problem, name: str) -> ModelAndGuide:
    """Train one of `MODELS`; with "-labels-only" in its name, it learns only the given labels."""
    kind, _, labels_only = name.partition("-")
    folder, s = p.folder / name, p.setting
    if labels_only:
        plan = new_plan(p, kind, **(LATE_CONSTRAINT if kind == "pcvae" else {}))
        stage, epochs = plan.stages[-1], s.label_epochs[kind]
        train(p, stage, p.y, folder, epochs, labelled_batch_size=LABELLED_BATCH)
        return plan.pair
    plan = new_plan(p, kind)
    stage, model = plan.stages[-1], plan.pair
    if isinstance(model, M1M2):
        model.vae.load_state_dict(p.vae.state_dict())
    train(p, stage, p.spread, folder, s.epochs[kind])
    if isinstance(model, M1M2):
        both_levels = replace(stage, pair=model, transform=None)
        train(p, both_levels, p.spread, p.folder / f"{name}-jointly", s.joint_epochs)
    if kind == "cpcvae" and not p.labelled.all():
        epochs = s.label_epochs[kind] // 2
        train(p, stage, p.y, p.folder / f"{name}-2", epochs, labelled_batch_size=LABELLED_BATCH)
    return model


def own_error(p: Problem, model: ModelAndGuide) -> float:
    """Return the test error of the model's own classifier, in %."""
    return error_rate(class_probabilities(model, p.x_test), p.y_test)


def logistic_regression(p: Problem, train: Tensor, test: Tensor) -> float:
    """Return the test error of logistic regression on the labelled data, in %.

    Args:
        p: the problem.
        train: the features of the training images `(N, ...)`.
        test: the features of the test images.
    """
    z, y = train[p.labelled].flatten(1).numpy(), p.y[p.labelled].numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(max_iter=300).fit(z, y)
    return 100 * float((fitted.predict(test.flatten(1).numpy()) != p.y_test.numpy()).mean())


class Discriminative(nn.Module):
    """A classifier as a pair: y ~ p(y | x), without latents."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", self.classifier(x), obs=y)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        pass


def network_error(p: Problem, shift: int) -> float:
    """Train a network like that of M2's q(y | x) on the labelled images. Return its test error in %."""
    m2 = new_plan(p, "m2").pair
    assert isinstance(m2, M2)
    network = Discriminative(m2.classifier)
    x, y = p.x[p.labelled], p.y[p.labelled]
    epochs = max(10, NETWORK_STEPS * min(p.setting.batch_size, len(x)) // len(x))
    fit(
        network,
        x,
        y,
        epochs=epochs,
        batch_size=p.setting.batch_size,
        optimizer=partial(torch.optim.Adam, lr=p.setting.learning_rate, fused=True),
        scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=epochs),
        transform=partial(data.random_shift, pixels=shift) if shift else None,
        seed=p.draw,
        progress=False,
        compile="on",
    )
    with torch.no_grad():
        network.eval()
        probabilities = torch.cat([network.classifier(part).probs for part in p.x_test.split(1000)])
    return error_rate(probabilities, p.y_test)


def errors_of(p: Problem, job: str) -> Iterator[tuple[str, float]]:
    """Do one of `JOBS` and return its test errors in %, with their names in the table."""
    if job == "pixels":
        yield "(a) logistic regression on pixels", logistic_regression(p, p.x, p.x_test)
    elif job == "network":
        yield "(b) network on pixels", network_error(p, 0)
        yield "(b) network on shifted pixels", network_error(p, p.setting.shift)
    elif job == "m1":
        z, z_test = latent_means(p.vae, p.x), latent_means(p.vae, p.x_test)
        yield "(c) logistic regression on VAE means", logistic_regression(p, z, z_test)
        for name in ("linear-svm", "rbf-svm", "label-spreading"):
            if name == "label-spreading" and p.labelled.all():
                continue
            predicted = fit_m1_classifier(name, z.numpy(), p.y.numpy()).predict(z_test.numpy())
            yield f"(d) M1, {name}", 100 * float((predicted != p.y_test.numpy()).mean())
    else:
        model = trained_model(p, job)
        kind, _, labels_only = job.partition("-")
        suffix = ", labels only" if labels_only else ""
        label = {"m2": "M2", "m1m2": "M1+M2", "pcvae": "PC-VAE", "cpcvae": "CPC-VAE"}[kind]
        yield f"{label}{suffix}", own_error(p, model)
        if kind == "pcvae":
            z, z_test = latent_means(model, p.x), latent_means(model, p.x_test)
            yield f"(e) logistic regression on PC-VAE means{suffix}", logistic_regression(p, z, z_test)


app = command_line(__doc__)
Runs = Annotated[Path, Parameter(help="Folder of the checkpoints.")]
Positive = validators.Number(gte=1)


@app.command
def run(
    *,
    dataset: Annotated[
        Literal["mnist", "cifar10"], Parameter(name="--data", help="The data set.")
    ] = "mnist",
    labels: Annotated[int, Parameter(help="Labels of each class. 0 means the 80-20 split.")] = 10,
    job: Annotated[list[str] | None, some_of(JOBS)] = None,
    draws: Annotated[int, Parameter(help="Number of draws. They count from 0.", validator=Positive)] = 5,
    threads: Annotated[int, Parameter(help="Number of CPU threads.", validator=Positive)] = 2,
    runs: Runs = Path("runs/semi_supervised"),
) -> None:
    """Train the models that are not in the measurements yet, and write their test errors."""
    torch.set_num_threads(threads)
    for draw in range(draws):
        p = problem(dataset, labels, draw, runs)
        for name in job or JOBS:
            key = {"dataset": dataset, "labels": labels, "draw": draw, "job": name}
            if MEASUREMENTS.done(key) or (labels == SPLIT and name.endswith("labels-only")):
                continue
            start = time.perf_counter()
            errors = dict(errors_of(p, name))
            minutes = (time.perf_counter() - start) / 60
            MEASUREMENTS.add(key | {"test_error": errors, "minutes": round(minutes, 2), "threads": threads})
            shown = ", ".join(f"{model} {error:.2f} %" for model, error in errors.items())
            print(f"{dataset} {labels or '80-20'} draw {draw}: {shown} ({minutes:.1f} min)", flush=True)


@app.command
def table() -> None:
    """Write and print the table of all measurements."""
    print(write_table())


@app.command
def figures(*, runs: Runs = Path("runs/semi_supervised")) -> None:
    """Draw latent spaces, analogies and interpolations on MNIST, with the 100 labels of draw 0."""
    p = problem("mnist", 10, 0, runs)
    shown = {"vae": p.vae} | {name: trained_model(p, name) for name in ("m2", "pcvae")}
    x, y, names = p.x_test, p.y_test, [str(label) for label in range(10)]
    for name in ("vae", "pcvae"):
        figure = plots.latents(shown[name], x[:2000], y[:2000], class_names=names)
        write_figure(figure, f"latent-pca-{name}")
    styles = x[[(y == label).nonzero()[2].item() for label in range(10)]]
    write_figure(plots.analogies(shown["m2"], styles, class_names=names), "analogies")
    write_figure(plots.interpolation(shown["vae"], styles[:5], styles[5:]), "interpolation")


def write_figure(figure: Figure, name: str) -> None:
    """Write a figure beside the results."""
    print(f"written: {plots.save(figure, RESULTS / f'semi_supervised-{name}.png')}")


if __name__ == "__main__":
    app()
