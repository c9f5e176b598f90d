"""Measurements of a run: marginal likelihood and test errors, written into its folder."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol, runtime_checkable

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
from pyrovae.evaluation.json_files import write_json
from pyrovae.generation import latent_means, posterior_draws
from pyrovae.programs.devices import device_of
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.reach import modules_of
from pyrovae.programs.sites import latent_sites
from pyrovae.programs.structure import structure
from pyrovae.recipes.fitting import with_labels_only
from pyrovae.recipes.run import Run


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
    **options: Any,
) -> MarginalLikelihood:
    """Estimate log p(x) of the test data. Write metrics.json and marginal_likelihood.json.

    The metrics include the exact evidence if the model knows it, and the test error if it learns classes.

    Args:
        run: the run.
        num_samples: K, the number of importance samples for each datum.
        limit: the largest number of test data. None means all.
        device: the device. "auto" means CUDA if it is available, else the CPU.
        progress: whether to show a progress bar.
        options: the arguments `precision` and `compile` of `marginal_likelihood`.

    Returns:
        The estimates, in nats.

    Raises:
        InputError: the model has nothing to integrate out, or an option does not fit.
    """
    presentation, images = run.presentation, run.images
    y_test = None if images.y_test is None else images.y_test[:limit]
    given = run.given(presentation.encoded(images.x_test[:limit]), y_test)
    if given is None and not _has_codes(run.pair, presentation.fixed(images.x_test[:2])):
        raise InputError(
            f"the latents of {run.config.recipe} belong to all data together, so single data have no "
            f"marginal likelihood: measure its test error by pyrovae classify {run.folder}."
        )
    x = presentation.fixed(images.x_test)[:limit]
    pair = on_device(run.pair, device)
    result = marginal_likelihood(
        pair, x, given=given, num_samples=num_samples, seed=run.training.seed, progress=progress, **options
    )
    metrics = result.summary() | {"epochs": len(run.history.rows)}
    if isinstance(pair, ExactEvidence):
        metrics["exact_log_likelihood"] = pair.log_evidence(x.to(resolve_device(device))).mean().item()
    if run.classes and images.y_test is not None:
        probabilities = class_probabilities(pair, presentation.encoded(images.x_test[:limit]))
        metrics["test_error"] = error_rate(probabilities, images.y_test[:limit])
    if processes.is_first():
        result.to_json(run.folder / "marginal_likelihood.json")
        write_json(run.folder / "metrics.json", metrics)
    return result


def classify(
    run: Run, labels: int | None = None, num_samples: int = 0, draws: bool = False, device: str = "auto"
) -> dict[str, float]:
    """Measure the test error of each classifier. Write classification.json.

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
        The test errors in %, by the name of the classifier.

    Raises:
        InputError: the data have no classes, or a class has too few data.
    """
    from pyrovae.semi_supervised import M1_CLASSIFIERS, fit_m1_classifier

    images, seed = run.images, run.training.seed
    x, classes = run.training_classes()
    if (y := classes) is None or images.y_test is None:
        raise InputError(f"{run.data.data} has no classes to compare predictions with.")
    per_class = run.data.labels if labels is None else labels
    if per_class is not None:
        y = with_labels_only(y, per_class, seed)
    x_test = run.presentation.encoded(images.x_test)
    given, given_test = run.given(x, classes), run.given(x_test, images.y_test)
    pair = on_device(run.pair, device)
    errors: dict[str, float] = {}
    if run.classes:
        errors["own classifier"] = error_rate(class_probabilities(pair, x_test), images.y_test)
        if num_samples:
            seen = run.presentation.fixed(images.x_test)
            by_bayes = class_posterior(pair, seen, images.num_classes, num_samples=num_samples)
            errors["Bayes' rule"] = error_rate(by_bayes, images.y_test)
    if given is None and not _has_codes(pair, x):
        return _written(run, errors)
    embed: Any = partial(posterior_draws, seed=seed) if draws else latent_means
    z = embed(pair, x, given=given).numpy()
    z_test = embed(pair, x_test, given=given_test).numpy()
    for name in M1_CLASSIFIERS:
        predicted = fit_m1_classifier(name, z, y.numpy()).predict(z_test)
        errors[name] = 100 * float((predicted != images.y_test.numpy()).mean())
    return _written(run, errors)


def _written(run: Run, errors: dict[str, float]) -> dict[str, float]:
    write_json(run.folder / "classification.json", errors)
    return errors


def _has_codes(pair: ModelAndGuide, x: Tensor) -> bool:
    """Whether a pair's guide infers latents of single data."""
    found = structure(pair, x[:2].to(device_of(pair, otherwise=x.device)))
    inferred = latent_sites(found.traces.guide) if found.traces.guide is not None else []
    return not inferred or any(found[name].scope != "global" for name in inferred)


def on_device(pair: ModelAndGuide, device: str) -> ModelAndGuide:
    """Move the modules of a pair to a device, and return the pair."""
    for module in modules_of(pair):
        module.to(resolve_device(device))
    return pair
