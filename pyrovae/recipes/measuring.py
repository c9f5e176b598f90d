"""Measurements of a run: marginal likelihood, test errors and latent means."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from pyrovae.compute import processes
from pyrovae.compute.devices import resolve_device
from pyrovae.errors import InputError
from pyrovae.evaluation import (
    MarginalLikelihood,
    class_posterior,
    class_probabilities,
    error_rate,
    marginal_likelihood,
)
from pyrovae.evaluation.classified import balanced_accuracy, confusion_counts
from pyrovae.evaluation.json_files import write_json
from pyrovae.generation import latent_means, posterior_draws
from pyrovae.programs.devices import move_to
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.sites import latent_sites
from pyrovae.programs.structure import structure
from pyrovae.recipes.fitting import with_labels_only
from pyrovae.recipes.run import Run
from pyrovae.recipes.run_data import Choice
from pyrovae.storage import write_atomically


@runtime_checkable
class ExactEvidence(Protocol):
    """A pair that knows its log evidence, as probabilistic PCA does."""

    def log_evidence(self, x: Tensor) -> Tensor:
        """Return log p(x) of data `(N, *x_shape)`, as `(N,)`."""


def evaluate(
    run: Run,
    num_samples: int = 5000,
    limit: int | None = None,
    device: str = "auto",
    progress: bool = True,
    limit_seed: int = 0,
    **options: Any,
) -> Evaluation:
    """Estimate log p(x) of the test data, or of the data that the run is asked about.

    Args:
        run: the run.
        num_samples: K, the number of importance samples for each datum.
        limit: the largest number of test data, which are drawn at random. None means all.
        device: the device. "auto" means CUDA if it is available, else the CPU.
        progress: whether to show a progress bar.
        limit_seed: the seed with which `limit` draws the data.
        options: the arguments `precision` and `compile` of `marginal_likelihood`.

    Returns:
        The estimates and metrics. `write` saves them in the run's folder.

    Raises:
        InputError: the model has nothing to integrate out, or an option does not fit.
    """
    presentation, scored = run.presentation, run.scored
    choice = Choice.among(len(scored.x), limit, limit_seed)
    seen = presentation.encoded(scored.x)[choice.rows]
    y = None if scored.y is None else scored.y[choice.rows]
    given = run.given(seen, y)
    if given is None and not _has_codes(run.pair, presentation.fixed(scored.x[:2])):
        raise InputError(
            f"the latents of {run.config.recipe} belong to all data together, so single data have no "
            f"marginal likelihood: measure its test error by pyrovae classify {run.folder}."
        )
    x = presentation.fixed(scored.x)[choice.rows]
    pair = on_device(run.pair, device)
    result = marginal_likelihood(
        pair, x, given=given, num_samples=num_samples, seed=run.training.seed, progress=progress, **options
    )
    metrics = result.summary() | {"epochs": run.epochs} | source_of(run) | choice.content()
    if isinstance(pair, ExactEvidence):
        metrics["exact_log_likelihood"] = pair.log_evidence(x).mean().item()
    if run.classes and y is not None:
        metrics["test_error"] = error_rate(class_probabilities(pair, seen), y)
    return Evaluation(run, result, metrics, choice)


@dataclass(frozen=True)
class Evaluation:
    """The estimates of log p(x), and the metrics of a run.

    Attributes:
        run: the run.
        result: the estimates, in nats.
        metrics: the estimates' summary; the exact evidence if the model knows it; the test error in % if
            it learns classes; the checkpoint that they are of; the file, if the data are not the run's own;
            and the seed of the choice, if not all data were measured.
        choice: the data that were measured.
    """

    run: Run
    result: MarginalLikelihood
    metrics: dict[str, Any]
    choice: Choice

    def write(self, out: Path | None = None) -> list[Path]:
        """Write metrics and estimates, and return the files.

        Args:
            out: a file to write both to. None means the run's folder: metrics.json, and
                marginal_likelihood.json with the values of single data. Data other than the run's own have
                files of their own.
        """
        content = {**self.result.content(), **source_of(self.run), **self.choice.content()}
        if not self.choice.is_all:
            content["limit"]["rows"] = self.choice.rows.tolist()
        if out is not None:
            files = {out: {"metrics": self.metrics, **content}}
        else:
            names = ("metrics", "marginal_likelihood")
            paths = [self.run.folder / f"{name}{self.run.scored.mark}.json" for name in names]
            files = dict(zip(paths, (self.metrics, content), strict=True))
        if processes.is_first():
            for path, values in files.items():
                write_json(path, values)
        return [*files]


def source_of(run: Run) -> dict[str, Any]:
    """Return what a result is of: the checkpoint, and the file if the data are not the run's own."""
    file = run.scored.file
    return {"checkpoint": run.checkpoint} | ({} if file is None else {"data_file": file})


def encode(run: Run, out: Path, site: str | None = None, device: str = "auto") -> None:
    """Write the latent means to a .npz file.

    It holds `z` and, if there are classes, `y`, in the order of the data: of the run's own data those for
    training, `z_train` and `y_train`, and those for testing, `z_test` and `y_test`; of other data all. It
    also names the classes, the checkpoint, and the file of other data.

    Args:
        run: the run.
        out: the file.
        site: the name of the latent. None means the one next to the data.
        device: the device. "auto" means CUDA if it is available, else the CPU.
    """
    scored, pair = run.scored, on_device(run.pair, device)
    parts = {"": (scored.x, scored.y)}
    if scored.file is None:
        parts = {"_test": (scored.x, scored.y), "_train": (run.images.x_train, run.images.y_train)}
    arrays: dict[str, Any] = {name: np.array(value) for name, value in source_of(run).items()}
    for part, (x, y) in parts.items():
        seen = run.presentation.encoded(x)
        arrays[f"z{part}"] = latent_means(pair, seen, site, given=run.given(seen, y)).numpy()
        if y is not None:
            arrays |= {f"y{part}": y.numpy(), "class_names": np.array(run.class_names)}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(out, buffer.getvalue())


class Rates(NamedTuple):
    """How well a classifier does.

    Attributes:
        error: the share of data that it classifies wrong, in %.
        balanced_accuracy: the share that it classifies right, in %, averaged over the classes.
    """

    error: float
    balanced_accuracy: float

    @classmethod
    def of(cls, predicted: Tensor, y: Tensor) -> Rates:
        """Compare predicted classes `(N,)` with the true ones."""
        predicted = predicted.cpu()
        counts = confusion_counts(y, predicted, int(torch.stack([y, predicted]).max()) + 1)
        return cls(100 * (predicted != y).double().mean().item(), balanced_accuracy(counts))


def classify(
    run: Run, labels: int | None = None, num_samples: int = 0, draws: bool = False, device: str = "auto"
) -> dict[str, Rates]:
    """Measure how well each classifier does, on the test data or the data that the run is asked about.

    A model that learns classes is measured with its own classifier and with Bayes' rule. Every model is
    measured with M1's classifiers, which scikit-learn fits to the latents. A Bayesian network has no
    latents of single data, and is measured with its own classifier alone.

    Args:
        run: the run.
        labels: the number of labelled data of each class for M1's classifiers. None means the run's own.
        num_samples: the number of importance samples for each datum and class in Bayes' rule. 0 leaves
            Bayes' rule out.
        draws: whether M1's classifiers learn draws of z ~ q(z | x) rather than its means.
        device: the device. "auto" means CUDA if it is available, else the CPU.

    Returns:
        The test error and the balanced accuracy in %, by the name of the classifier.

    Raises:
        InputError: the data have no classes, or a class has too few data; or the model is given the class
            of each datum.
    """
    from pyrovae.semi_supervised import M1_CLASSIFIERS, decoder_scales, fit_m1_classifier

    scored, seed = run.scored, run.training.seed
    if scored.y is None:
        raise InputError(f"{scored.name} has no classes to compare predictions with.")
    x_test = run.presentation.encoded(scored.x)
    given_test = run.given(x_test, scored.y)
    _check_hidden_classes(run, x_test, scored.y, given_test)
    pair = on_device(run.pair, device)
    rates: dict[str, Rates] = {}
    if run.classes:
        rates["own classifier"] = Rates.of(class_probabilities(pair, x_test).argmax(1), scored.y)
        if num_samples:
            seen = run.presentation.fixed(scored.x)
            by_bayes = class_posterior(pair, seen, run.about.num_classes, num_samples=num_samples)
            rates["Bayes' rule"] = Rates.of(by_bayes.argmax(1), scored.y)
    if given_test is None and not _has_codes(pair, x_test):
        return rates
    try:
        x, y = run.training_classes()
    except InputError:
        if not rates:  # else the run's data have gone, and its own classifier needs none
            raise
        return rates
    if y is None:
        raise InputError(f"{run.data.data} has no classes for M1's classifiers to learn.")
    given = run.given(x, y)
    per_class = run.data.labels if labels is None else labels
    if per_class is not None:
        y = with_labels_only(y, per_class, seed)
    embed: Any = partial(posterior_draws, seed=seed) if draws else latent_means
    z = embed(pair, x, given=given)
    scales = decoder_scales(pair, z, given=given)
    z, z_test = ((scales * latents).numpy() for latents in (z, embed(pair, x_test, given=given_test)))
    for name in M1_CLASSIFIERS:
        predicted = fit_m1_classifier(name, z, y.numpy()).predict(z_test)
        rates[name] = Rates.of(torch.from_numpy(predicted), scored.y)
    return rates


def _check_hidden_classes(run: Run, x: Tensor, y: Tensor, given: Mapping[str, Any] | None) -> None:
    """Refuse to classify by latents that were inferred with the class of each datum.

    Raises:
        InputError: what is given to the model depends on the classes.
    """
    others = run.given(x, (y + 1) % run.about.num_classes) if given is not None else None
    for name, value in (given or {}).items():
        if isinstance(value, torch.Tensor) and not torch.equal(value, (others or {})[name]):
            raise InputError(
                f"{run.config.recipe} is given the class of each datum, as '{name}', so its latents of the "
                "test data would be inferred with the classes that are to be found: classify by a model of "
                "another condition (pyrovae train cvae --condition half), or by one that learns classes "
                "(pyrovae train m2)."
            )


def _has_codes(pair: ModelAndGuide, x: Tensor) -> bool:
    """Whether a pair's guide infers latents of single data."""
    found = structure(pair, x[:2])
    inferred = latent_sites(found.traces.guide) if found.traces.guide is not None else []
    return not inferred or any(found[name].scope != "global" for name in inferred)


def on_device(pair: ModelAndGuide, device: str) -> ModelAndGuide:
    """Move the modules of a pair to a device, and return the pair."""
    move_to(resolve_device(device), pair)
    return pair
