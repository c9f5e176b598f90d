"""The commands that measure: evaluate, diagnose, classify and encode.

Each prints its result before it writes it, so that nothing is lost if it cannot be written.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from pyrovae.cli.parameters import (
    NONE_OWN,
    Compile,
    DataFile,
    Device,
    Limit,
    LimitSeed,
    Out,
    Own,
    Quiet,
    RunFolder,
    Site,
)
from pyrovae.cli.results import Overwrite, check_replaceable
from pyrovae.errors import InputError, check_counts, one_line, warn

if TYPE_CHECKING:
    from pyrovae.recipes.run import Run
    from pyrovae.recipes.run_data import Choice

EVALUATION, CLASSIFICATION, LATENTS = b'"metrics": {', b'"test_errors": {', b"checkpoint.npy"
"""What each file holds that evaluate, classify and encode write to --out."""

LimitOrAll = Annotated[
    int | None, Parameter(help="The number of test data, which are drawn at random. By default all.")
]
NumSamples = Annotated[int, Parameter(help="K, the number of importance samples for each datum.")]


def evaluate(
    run: RunFolder,
    /,
    *,
    num_samples: NumSamples = 5000,
    limit: LimitOrAll = None,
    limit_seed: LimitSeed = 0,
    device: Device = "auto",
    precision: Annotated[
        str,
        Parameter(help="The precision of matrix products: float32, bfloat16, or tf32 on CUDA."),
    ] = "float32",
    compile: Compile = "auto",
    data: DataFile = None,
    out: Out = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    own: Own = NONE_OWN,
) -> None:
    """Estimate the marginal likelihood of the test data, with error bars and k-hat.

    Example: pyrovae evaluate runs/first --num-samples 5000
    """
    from pyrovae.recipes import measuring

    if limit is not None:
        check_counts(limit=limit)
    opened = own.open(run, data)
    writable = _can_be_written(opened, out, EVALUATION, overwrite)
    options: Any = {"precision": precision, "compile": compile, "limit_seed": limit_seed}
    found = measuring.evaluate(opened, num_samples, limit, device, progress=not quiet, **options)
    print(found.result)
    _tell(found.choice)
    if "exact_log_likelihood" in found.metrics:
        print(f"exact    = {found.metrics['exact_log_likelihood']:.3f}")
    if "test_error" in found.metrics:
        print(f"test error = {found.metrics['test_error']:.2f} %")
    if writable:
        print(f"written: {one_line(', '.join(map(str, found.write(out))))}")


def compare(
    *runs: Annotated[Path, Parameter(help="The run folders to compare, at least two.")],
    num_samples: NumSamples = 500,
    limit: LimitOrAll = None,
    limit_seed: LimitSeed = 0,
    device: Device = "auto",
    data: DataFile = None,
    out: Annotated[Path | None, Parameter(help="A .json file to write the table to.")] = None,
    figure: Annotated[
        Path | None, Parameter(help="A file to draw the differences to: .png, .svg or .pdf.")
    ] = None,
    quiet: Quiet = False,
    own: Own = NONE_OWN,
) -> None:
    """Compare the evidence of runs on the same test data, datum by datum.

    Example: pyrovae compare runs/first runs/iaf --num-samples 500
    """
    from pyrovae import plots
    from pyrovae.evaluation import compare as compare_results
    from pyrovae.recipes import measuring

    if len({path.resolve() for path in runs}) < max(2, len(runs)):
        raise InputError(
            f"runs are {', '.join(map(str, runs)) or 'not given'}; name at least two, each once."
        )
    results = {}
    for path in runs:
        opened = own.open(path, data, needed=True)
        found = measuring.evaluate(
            opened, num_samples, limit, device, progress=not quiet, limit_seed=limit_seed
        )
        results[str(path)] = found.result
    table = compare_results(results)
    print(table)
    _tell(found.choice)
    if out is not None:
        table.to_json(out)
    if figure is not None:
        plots.save(plots.comparison(table), figure)
    if written := [str(path) for path in (out, figure) if path is not None]:
        print(f"written: {one_line(', '.join(written))}")


def diagnose(
    run: RunFolder,
    /,
    *,
    limit: Limit = 100,
    limit_seed: LimitSeed = 0,
    num_samples: NumSamples = 1000,
    steps: Annotated[
        int, Parameter(help="The number of steps in the search for each datum's best posterior.")
    ] = 500,
    device: Device = "auto",
    data: DataFile = None,
    quiet: Quiet = False,
    own: Own = NONE_OWN,
) -> None:
    """Measure the inference gaps, the active units and the parts of the KL.

    Example: pyrovae diagnose runs/first --limit 100
    """
    from pyrovae.evaluation import active_units, inference_gaps, kl_decomposition
    from pyrovae.evaluation.json_files import write_json
    from pyrovae.recipes.measuring import on_device, source_of
    from pyrovae.recipes.run_data import Choice

    for name, number, least in (("limit", limit, 2), ("num_samples", num_samples, 1), ("steps", steps, 1)):
        if number < least:
            raise InputError(f"{name} is {number}; it must be at least {least}.")
    opened = own.open(run, data)
    writable = _can_be_written(opened)
    pair: Any = on_device(opened.pair, device)
    scored = opened.scored
    choice = Choice.among(len(scored.x), limit, limit_seed)
    _tell(choice)
    x = opened.presentation.fixed(scored.x)[choice.rows]
    y = None if scored.y is None else scored.y[choice.rows]
    given = opened.given(opened.presentation.encoded(scored.x)[choice.rows], y)
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
        if writable:
            path = run / f"{name}{opened.scored.mark}.json"
            write_json(path, {**result.content(), **source_of(opened), **choice.content()})
            print(f"written: {one_line(str(path))}")


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
    data: DataFile = None,
    out: Out = None,
    overwrite: Overwrite = False,
    own: Own = NONE_OWN,
) -> None:
    """Measure the test errors of the model's own classifier, and of M1's (scikit-learn's) on its latents.

    The balanced accuracy is the share of data that is classified right, averaged over the classes.

    Example: pyrovae classify runs/first --labels 10
    """
    from pyrovae.evaluation.json_files import write_json
    from pyrovae.recipes import measuring

    opened = own.open(run, data)
    writable = _can_be_written(opened, out, CLASSIFICATION, overwrite)
    found = measuring.classify(opened, labels, num_samples, draws, device)
    for name, (error, balanced) in found.items():
        print(f"{name:<16} {error:6.2f} % test error {balanced:6.2f} % balanced accuracy")
    for warning in opened.verdict.warnings if opened.verdict else ():  # such as latents that carry nothing
        print(f"warning: {warning}")
    if writable:
        path = out or run / f"classification{opened.scored.mark}.json"
        errors = {name: rates.error for name, rates in found.items()}
        balanced_accuracies = {name: rates.balanced_accuracy for name, rates in found.items()}
        content = {"test_errors": errors, "balanced_accuracies": balanced_accuracies}
        write_json(path, content | measuring.source_of(opened))
        print(f"written: {one_line(str(path))}")


def encode(
    run: RunFolder,
    /,
    *,
    out: Annotated[Path, Parameter(help="The .npz file to write.")],
    site: Site = None,
    device: Device = "auto",
    data: DataFile = None,
    overwrite: Overwrite = False,
    own: Own = NONE_OWN,
) -> None:
    """Write the latent means of the run's data, or of other data, to a .npz file.

    It holds z_train, z_test and the classes y_train, y_test of the run's own data, and z, y of other data.

    Example: pyrovae encode runs/first --data new.npz --out latents.npz
    """
    from pyrovae.recipes import measuring

    opened = own.open(run, data)
    _can_be_written(opened, out, LATENTS, overwrite)
    measuring.encode(opened, out, site, device)
    print(f"written: {one_line(str(out))}")


def _tell(choice: Choice) -> None:
    """Say so if only some of the data are measured."""
    if not choice.is_all:
        print(f"measured : {choice}")


def _can_be_written(
    opened: Run, out: Path | None = None, mark: bytes = b"", overwrite: bool = False
) -> bool:
    """Whether a result can be written, before it is computed. If it will only be printed, say so.

    Args:
        opened: the run.
        out: the file that the user has named, or None for files in the run's folder.
        mark: what such a file holds that the same command has written before.
        overwrite: whether another file may be replaced.

    Raises:
        InputError: the user has named a file that cannot be written, or that would be lost.
    """
    run = opened.folder
    folder = run if out is None else out.absolute().parent
    if folder.is_dir() and os.access(folder, os.W_OK):
        if out is not None and out.exists():
            _check_nothing_lost(opened, out)
            check_replaceable(out, [mark], overwrite)
        return True
    if out is not None:
        raise InputError(f"{out} cannot be written, since {folder} is no folder, or not writable.")
    warn(f"{run} cannot be written: the result is only printed. Name a file by --out FILE to keep it.")
    return False


def _check_nothing_lost(opened: Run, out: Path) -> None:
    """Refuse to write a result over the data that are read, or over a file of the run.

    Raises:
        InputError: the existing file is one of these.
    """
    data = [Path(name) for name in (opened.asked, opened.data.data) if isinstance(name, str)]
    if any(path.exists() and path.samefile(out) for path in data):
        raise InputError(f"{out} holds the data that are read, and would be lost: name another file.")
    of_run = opened.folder.resolve() in out.resolve().parents
    if of_run and not out.name.startswith(("metrics", "classification", "marginal_likelihood")):
        raise InputError(f"{out} is a file of the run, and would be lost: name another file.")
