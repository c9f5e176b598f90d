"""The commands that measure: evaluate, diagnose and classify."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from pyrovae.cli.parameters import NONE_OWN, Compile, Device, Own, Quiet, RunFolder
from pyrovae.errors import InputError, check_counts

NumSamples = Annotated[int, Parameter(help="K, the number of importance samples for each datum.")]


def evaluate(
    run: RunFolder,
    /,
    *,
    num_samples: NumSamples = 5000,
    limit: Annotated[int | None, Parameter(help="The number of test data. By default all.")] = None,
    device: Device = "auto",
    precision: Annotated[
        str,
        Parameter(help="The precision of matrix products: float32, bfloat16, or tf32 on CUDA."),
    ] = "float32",
    compile: Compile = "auto",
    quiet: Quiet = False,
    own: Own = NONE_OWN,
) -> None:
    """Estimate the marginal likelihood of the test data, with error bars and k-hat.

    Example: pyrovae evaluate runs/first --num-samples 5000
    """
    from pyrovae.recipes import measuring

    if limit is not None:
        check_counts(limit=limit)
    opened = own.open(run)
    options = {"precision": precision, "compile": compile}
    print(measuring.evaluate(opened, num_samples, limit, device, progress=not quiet, **options))
    if (metrics := opened.metrics) and "exact_log_likelihood" in metrics:
        print(f"exact    = {metrics['exact_log_likelihood']:.3f}")
    if metrics and "test_error" in metrics:
        print(f"test error = {metrics['test_error']:.2f} %")
    print(f"written: {run / 'metrics.json'}, {run / 'marginal_likelihood.json'}")


def diagnose(
    run: RunFolder,
    /,
    *,
    limit: Annotated[int, Parameter(help="The number of test data.")] = 100,
    num_samples: NumSamples = 1000,
    steps: Annotated[
        int, Parameter(help="The number of steps in the search for each datum's best posterior.")
    ] = 500,
    device: Device = "auto",
    quiet: Quiet = False,
    own: Own = NONE_OWN,
) -> None:
    """Measure the inference gaps, the active units and the parts of the KL.

    Example: pyrovae diagnose runs/first --limit 100
    """
    from pyrovae.evaluation import active_units, inference_gaps, kl_decomposition
    from pyrovae.recipes.measuring import on_device

    for name, number, least in (("limit", limit, 2), ("num_samples", num_samples, 1), ("steps", steps, 1)):
        if number < least:
            raise InputError(f"{name} is {number}; it must be at least {least}.")
    opened = own.open(run)
    pair: Any = on_device(opened.pair, device)
    images = opened.images
    x = opened.presentation.fixed(images.x_test)[:limit]
    y_test = None if images.y_test is None else images.y_test[:limit]
    given = opened.given(opened.presentation.encoded(images.x_test[:limit]), y_test)
    analyses: dict[str, Any] = {
        "active_units": lambda: active_units(pair, x, given=given),
        "kl_decomposition": lambda: kl_decomposition(pair, x, given=given),
        "inference_gaps": lambda: inference_gaps(
            pair, x, given=given, num_samples=num_samples, steps=steps, progress=not quiet
        ),
    }
    for name, analyse in analyses.items():
        try:
            result = analyse()
        except InputError as error:  # some guides do not support every analysis
            print(f"no {name.replace('_', ' ')} for this guide: {error}")
            continue
        print(result)
        result.to_json(run / f"{name}.json")
        print(f"written: {run / f'{name}.json'}")


def classify(
    run: RunFolder,
    /,
    *,
    labels: Annotated[
        int | None,
        Parameter(
            help="The number of labelled data of each class for M1's classifiers. By default the run's own."
        ),
    ] = None,
    num_samples: Annotated[
        int,
        Parameter(help="The number of samples for each class in Bayes' rule. 0 leaves Bayes' rule out."),
    ] = 0,
    draws: Annotated[
        bool,
        Parameter(
            help="Fit M1's classifiers to draws of z rather than to its means.",
            negative="",
            show_default=False,
        ),
    ] = False,
    device: Device = "auto",
    own: Own = NONE_OWN,
) -> None:
    """Measure the test errors of the model's own classifier, and of M1's (scikit-learn's) on its latents.

    Example: pyrovae classify runs/first --labels 10
    """
    from pyrovae.recipes import measuring

    errors = measuring.classify(own.open(run), labels, num_samples, draws, device)
    for name, error in errors.items():
        print(f"{name:<16} {error:6.2f} % test error")
    print(f"written: {run / 'classification.json'}")
